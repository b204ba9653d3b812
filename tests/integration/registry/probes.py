"""Runs the C++ programs `registrar_probe` and `rpc_client_probe` and talks to them."""

from __future__ import annotations

import itertools
import json
import os
import queue
import signal
import subprocess
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from serving.config import EtcdConfig

ROOT = Path(__file__).resolve().parents[3]
KEY = "/mesh/v1/endpoints/default/shop/direct/model/model-r1-0"
END_TIMEOUT_S = 60.0


def probe_binary(name: str) -> Path:
    """The built program; MESH_BUILD_DIR names another build (one with sanitizers, say)."""
    build = Path(os.environ.get("MESH_BUILD_DIR", ROOT / "build" / "cmake"))
    return build.resolve() / "cpp_ext" / "tests" / "registry" / name


def endpoint_value(generation: int = 1, **fields: object) -> str:
    """An endpoint record as the process under test writes it."""
    return json.dumps({"generation": str(generation), "id": "model-r1-0", **fields})


def registrar_config(
    etcd: EtcdConfig, *, value: str | None = None, ttl_s: int = 2, **fields: object
) -> dict[str, object]:
    """The probe's argument."""
    config: dict[str, object] = {
        "endpoints": list(etcd.endpoints),
        "key": KEY,
        "value": endpoint_value() if value is None else value,
        "ttl_s": ttl_s,
        "user": etcd.user,
        "password_file": etcd.password_file,
    }
    if etcd.tls is not None:
        config |= {"ca": etcd.tls.ca_file, "cert": etcd.tls.cert_file, "private_key": etcd.tls.key_file}
    return config | fields


@dataclass(frozen=True)
class Registration:
    """What the registrar says of itself."""

    lease: int
    registered: bool
    problem: str


class RegistrarProbe:
    """One process that registers an endpoint."""

    def __init__(self, config: dict[str, object], log: Path) -> None:
        self.log = log
        with log.open("wb") as errors:
            self.popen = subprocess.Popen(
                [str(probe_binary("registrar_probe")), json.dumps(config)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def _ask(self, line: str) -> Registration:
        if self.popen.stdin is None or self.popen.stdout is None:
            raise RuntimeError("the probe has no pipes")
        self.popen.stdin.write(line + "\n")
        self.popen.stdin.flush()
        answer = self.popen.stdout.readline()
        if not answer:
            raise RuntimeError(f"the probe ended with {self.popen.wait(END_TIMEOUT_S)}: {self.log.read_text()}")
        return Registration(**json.loads(answer))

    def status(self) -> Registration:
        return self._ask("status")

    def update(self, value: str) -> None:
        self._ask("update " + value)

    def withdraw(self) -> Registration:
        return self._ask("withdraw")

    def end(self) -> int:
        """The end of its input lets it withdraw and exit."""
        if self.popen.stdin is not None:
            self.popen.stdin.close()
        return self.popen.wait(END_TIMEOUT_S)

    def kill(self) -> None:
        """SIGKILL, whatever it does."""
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGKILL)
        self.popen.wait(END_TIMEOUT_S)
        for pipe in (self.popen.stdin, self.popen.stdout):
            if pipe is not None and not pipe.closed:
                pipe.close()


@dataclass
class CallEvents:
    """What happened to one call so far."""

    messages: list[bytes] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    done: dict[str, Any] | None = None

    @property
    def code(self) -> str:
        return "" if self.done is None else str(self.done["code"])

    @property
    def message(self) -> str:
        return "" if self.done is None else str(self.done["message"])


class ClientProbe:
    """One process with one channel of the C++ client."""

    def __init__(self, address: str, **options: object) -> None:
        argument = json.dumps({"address": address, **options})
        self.popen = subprocess.Popen(
            [str(probe_binary("rpc_client_probe")), argument],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._ids = itertools.count(1)
        self._events: dict[int, queue.Queue[dict[str, Any]]] = {}
        self._reader = threading.Thread(target=self._read, name="probe reader")
        self._reader.start()

    def _read(self) -> None:
        for line in self.popen.stdout or ():
            event = json.loads(line)
            self._events[event["id"]].put(event)

    def _send(self, **command: object) -> None:
        if self.popen.stdin is None:
            raise RuntimeError("the probe has no pipes")
        self.popen.stdin.write(json.dumps(command) + "\n")
        self.popen.stdin.flush()

    def _start(self, op: str, path: str, options: dict[str, object]) -> int:
        number = next(self._ids)
        self._events[number] = queue.Queue()
        self._send(op=op, id=number, path=path, **options)
        return number

    def begin_unary(self, path: str, request: bytes = b"", **options: object) -> int:
        """Starts a call; `finish` waits for it."""
        return self._start("unary", path, {"bytes": request.hex(), **options})

    def unary(self, path: str, request: bytes = b"", **options: object) -> CallEvents:
        return self.finish(self.begin_unary(path, request, **options))

    def stream(self, path: str, **options: object) -> int:
        return self._start("stream", path, options)

    def send(self, number: int, message: bytes) -> None:
        self._send(op="send", id=number, bytes=message.hex())

    def half_close(self, number: int) -> None:
        self._send(op="half_close", id=number)

    def cancel(self, number: int) -> None:
        self._send(op="cancel", id=number)

    def pause(self, number: int) -> None:
        self._send(op="pause", id=number)

    def resume(self, number: int) -> None:
        self._send(op="resume", id=number)

    def close_channel(self) -> None:
        self._send(op="close", id=0)

    def next_event(self, number: int, timeout_s: float = 60.0) -> dict[str, Any]:
        return self._events[number].get(timeout=timeout_s)

    def waiting_events(self, number: int) -> int:
        return self._events[number].qsize()

    def next_message(self, number: int) -> bytes:
        event = self.next_event(number)
        if event["event"] != "message":
            raise AssertionError(f"expected a message, got {event}")
        return bytes.fromhex(event["bytes"])

    def finish(self, number: int, timeout_s: float = 60.0) -> CallEvents:
        """Everything until the end of the call. Nothing may follow it."""
        events = CallEvents()
        while events.done is None:
            event = self.next_event(number, timeout_s)
            if event["event"] == "message":
                events.messages.append(bytes.fromhex(event["bytes"]))
                events.sizes.append(int(event["size"]))
            else:
                events.done = event
        return events

    def end(self) -> int:
        """Closes the input, which destroys the channel; the exit code."""
        if self.popen.stdin is not None and not self.popen.stdin.closed:
            self.popen.stdin.close()
        code = self.popen.wait(END_TIMEOUT_S)
        self._reader.join(END_TIMEOUT_S)
        if self.popen.stdout is not None:
            self.popen.stdout.close()
        left = {number: events.qsize() for number, events in self._events.items() if events.qsize()}
        if left:
            raise AssertionError(f"events that nobody expected: {left}")
        return code
