"""What a 10 MB request in flight costs a server's memory, beside `tritonserver`.

The requests wait in Triton behind a model that a small request holds at a gate. So all of a request is there and
nothing of its answer: what is resident then, beyond what was resident before, is what the requests cost. Then the gate
opens, and the highest that is resident until the last answer has come holds answers too. All is in multiples of the
payload, of which there is one in a request and one in its answer. Each row has a fresh server, and each round finds
what the rounds before it have left behind: the table shows the first round and the highest of the others.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

import grpc
from tritonclient.grpc import service_pb2

from benchmarks.load import link_identity
from benchmarks.processes import Memory, memory, reset_peak
from benchmarks.results import keep_results
from benchmarks.servers import ROOT, Server, running
from serving.errors import DeadlineExceeded, FailedPrecondition

NAMES: Final = ("mesh", "tritonserver")
PAYLOAD: Final = 10_000_000
WAYS: Final = ("gRPC", "HTTP", "one stream")
COUNTS: Final = (1, 4, 8)  # in flight at one time
_MODEL: Final = "gated"
_SMALL: Final = 64
_LIMIT_S: Final = 120.0
_PAUSE_S: Final = 0.1
_CALM_S: Final = 1.0  # longer than the mesh lets memory wait for its next use
_CALM_BYTES: Final = 65_536
_CONFIG: Final = """backend: "identity"
max_batch_size: 0
input [ {{ name: "INPUT0" data_type: TYPE_UINT8 dims: [ -1 ] }} ]
output [ {{ name: "OUTPUT0" data_type: TYPE_UINT8 dims: [ -1 ] }} ]
parameters {{ key: "execute_gate" value {{ string_value: "{gate}" }} }}
"""
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Cell:
    """Resident memory beyond that of the idle server, over the payload of the requests."""

    received: float  # the highest until all requests wait
    waiting: float
    answered: float  # the highest from there to the last answer
    left: float  # afterwards, when nothing is in flight


def prepare(folder: Path) -> tuple[Path, Path, Path]:
    """A model repository, a backend directory, and the gate."""
    gate = folder / "gate"
    model = folder / "models" / _MODEL
    (model / "1").mkdir(parents=True, exist_ok=True)
    (model / "config.pbtxt").write_text(_CONFIG.format(gate=gate))
    return folder / "models", link_identity(folder), gate


class Client:
    """`count` requests at a time: on a connection each, or all on one stream."""

    def __init__(self, server: Server, way: str, count: int) -> None:
        self._server = server
        self._way = way
        self.count = count
        self._pool = ThreadPoolExecutor(count + 1)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def send(self, size: int) -> list[Future[int]]:
        """Begins that many requests; the futures hold how many of them each has seen answered."""
        if self._way == "one stream":
            return [self._pool.submit(_stream, self._server.address, size, self.count)]
        ask, address = (_post, self._server.http) if self._way == "HTTP" else (_call, self._server.address)
        return [self._pool.submit(ask, address, size) for _ in range(self.count)]

    def hold(self) -> Future[int]:
        """One small request, which waits at the gate in front of all others."""
        return self._pool.submit(_call, self._server.address, _SMALL)

    def pending(self) -> int:
        """Requests that wait for their turn in Triton."""
        try:
            with urllib.request.urlopen(f"http://{self._server.metrics}/metrics", timeout=10) as answer:
                lines = answer.read().decode().splitlines()
        except urllib.error.URLError:  # tritonserver opens this port after the others
            return 0
        name = f'nv_inference_pending_request_count{{model="{_MODEL}"'
        return sum(round(float(line.rsplit(" ", 1)[1])) for line in lines if line.startswith(name))


def _request(size: int) -> bytes:
    request = service_pb2.ModelInferRequest(model_name=_MODEL)
    request.inputs.add(name="INPUT0", datatype="UINT8", shape=[size])
    request.raw_input_contents.append(bytes(size))
    return bytes(request.SerializeToString())


@contextlib.contextmanager
def _channel(address: str) -> Iterator[Any]:
    options = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(address, options=options) as channel:
        yield channel  # its types know no calls without serializers


def _call(address: str, size: int) -> int:
    with _channel(address) as channel:
        answer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(_request(size), timeout=_LIMIT_S)
    return int(len(answer) > size)


def _stream(address: str, size: int, count: int) -> int:
    with _channel(address) as channel:
        call = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        return sum(len(answer) > size for answer in call(iter([_request(size)] * count), timeout=_LIMIT_S))


def _post(address: str, size: int) -> int:
    tensor = {"name": "INPUT0", "datatype": "UINT8", "shape": [size], "parameters": {"binary_data_size": size}}
    head = {"inputs": [tensor], "outputs": [{"name": "OUTPUT0", "parameters": {"binary_data": True}}]}
    text = json.dumps(head).encode()
    connection = http.client.HTTPConnection(address, timeout=_LIMIT_S)
    with contextlib.closing(connection):
        headers = {"Inference-Header-Content-Length": str(len(text))}
        connection.request("POST", f"/v2/models/{_MODEL}/infer", text + bytes(size), headers)
        return int(len(connection.getresponse().read()) > size)


def measure(server: Server, client: Client, gate: Path, idle: int) -> Cell:
    """One round; `idle` is what was resident before the first. Raises `DeadlineExceeded`, `FailedPrecondition`."""

    def share(value: int) -> float:
        return (value - idle) / (client.count * PAYLOAD)

    reset_peak(server.pid)
    waiting = _pass(client, gate, PAYLOAD, lambda: _settled(server.pid))
    reached = memory(server.pid).peak
    return Cell(share(waiting.peak), share(waiting.resident), share(reached), share(_settled(server.pid).resident))


def _pass(client: Client, gate: Path, size: int, look: Callable[[], Memory]) -> Memory:
    """What is seen while all requests wait at the gate; then they pass it."""
    gate.unlink(missing_ok=True)
    try:
        asked = [client.hold(), *client.send(size)]
        deadline = time.monotonic() + _LIMIT_S
        while client.pending() != client.count:
            if time.monotonic() > deadline:
                raise DeadlineExceeded(f"{client.pending()} of {client.count} requests wait after {_LIMIT_S:.0f} s")
            time.sleep(_PAUSE_S)
        seen = look()
    finally:
        gate.touch()
    answered = sum(one.result(_LIMIT_S) for one in asked)
    if answered != client.count + 1:
        raise FailedPrecondition(f"{answered} of {client.count + 1} requests were answered in full")
    return seen


def _settled(pid: int) -> Memory:
    """As soon as what is resident does not change any more."""
    before, now = memory(pid), None
    deadline = time.monotonic() + _LIMIT_S
    while now is None or abs(now.resident - before.resident) > _CALM_BYTES:
        if time.monotonic() > deadline:
            raise DeadlineExceeded(f"the memory of process {pid} does not settle")
        before = now or before
        time.sleep(_CALM_S)
        now = memory(pid)
    return now


def measure_row(name: str, folder: Path, way: str, count: int, rounds: int) -> list[Cell]:
    repository, backends, gate = prepare(folder)
    with running(name, repository, backends) as server, Client(server, way, count) as client:
        _pass(client, gate, _SMALL, lambda: memory(server.pid))  # threads and pools are there from now on
        idle = _settled(server.pid).resident
        return [measure(server, client, gate, idle) for _ in range(rounds)]


def run(quick: bool, say: Say) -> str:
    columns = ("received", "waiting", "answered", "left")
    titles = [f"{column}, {name}" for column in columns for name in NAMES]
    lines = [f"| 10 MB requests in flight | {' | '.join(titles)} |", "|" + " --- |" * (len(titles) + 1)]
    kept = []
    for way in WAYS:
        for count in COUNTS:
            cells = {
                name: measure_row(name, ROOT / "build" / "bench-memory", way, count, 2 if quick else 4)
                for name in NAMES
            }
            kept.append({"way": way, "count": count, "cells": {n: [asdict(c) for c in cells[n]] for n in NAMES}})
            lines.append(_row(f"{count} × {way}", cells))
            say(lines[-1])
    if not quick:
        keep_results("ingress_memory", kept)
    return "\n".join(lines)


def _row(title: str, cells: dict[str, list[Cell]]) -> str:
    shown = []
    for field in fields(Cell):
        for name in NAMES:
            first, *others = (getattr(cell, field.name) for cell in cells[name])
            shown.append(f"{first:.2f}, {max(others):.2f}")
    return f"| {title} | {' | '.join(shown)} |"
