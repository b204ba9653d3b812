"""Real etcd servers on loopback: one for a local mesh, several for tests. Ends them by process group, never by name."""

from __future__ import annotations

import base64
import http.client
import json
import os
import shutil
import ssl
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from serving.config import EtcdConfig, TlsConfig
from serving.errors import AlreadyExists, FailedPrecondition, InvalidArgument, Unavailable
from serving.local.etcd_binary import find_etcd
from serving.local.ports import free_ports, is_free
from serving.local.process import Process
from serving.process_id import ProcessId

STATE_FILE: Final = "etcd.json"
_ATTEMPTS: Final = 5
_PORT_TAKEN: Final = "address already in use"


@dataclass(frozen=True, slots=True)
class EtcdOptions:
    """How the servers run. `tls` is the servers' own certificate; with `tls.ca_file` clients must show one too."""

    tls: TlsConfig | None = None
    host: str = "127.0.0.1"
    extra_flags: tuple[str, ...] = ()
    start_timeout_s: float = 60.0
    cluster_token: str = ""  # empty: a new one for each empty store, so that a wiped store has another cluster id
    die_with_parent: bool = False
    probe_tls: TlsConfig | None = None  # what the readiness check presents; by default the servers' own files


@dataclass(slots=True)
class EtcdMember:
    """One server. `start`, `stop`, `kill`, `pause` and `resume` may follow each other in any order."""

    name: str
    directory: Path
    client_port: int
    peer_port: int
    options: EtcdOptions
    initial_cluster: str = ""
    cluster_token: str = ""
    process: Process | None = field(default=None, repr=False)

    @property
    def data_dir(self) -> Path:
        return self.directory / "data"

    @property
    def log_file(self) -> Path:
        return self.directory / "etcd.log"

    @property
    def endpoint(self) -> str:
        return f"{_bracketed(self.options.host)}:{self.client_port}"

    @property
    def client_url(self) -> str:
        return f"{'https' if self.options.tls else 'http'}://{self.endpoint}"

    @property
    def peer_url(self) -> str:
        return f"http://{_bracketed(self.options.host)}:{self.peer_port}"

    def launch(self) -> None:
        """Starts the process on its data folder and ports; does not wait until it answers."""
        if self.process is not None and self.process.running():
            raise AlreadyExists(f"etcd member {self.name} runs already with pid {self.process.pid}")
        self.directory.mkdir(parents=True, exist_ok=True)
        self.data_dir.mkdir(mode=0o700, exist_ok=True)
        self.process = Process.start(
            f"etcd {self.name}",
            self._command(),
            log_file=self.log_file,
            die_with_parent=self.options.die_with_parent,
        )

    def _command(self) -> list[str]:
        command = [find_etcd(), "--name", self.name, "--data-dir", str(self.data_dir)]
        command += ["--listen-client-urls", self.client_url, "--advertise-client-urls", self.client_url]
        command += ["--listen-peer-urls", self.peer_url, "--initial-advertise-peer-urls", self.peer_url]
        command += ["--initial-cluster", self.initial_cluster or f"{self.name}={self.peer_url}"]
        command += ["--initial-cluster-token", self._token(), "--logger", "zap", "--log-outputs", "stderr"]
        command += ["--auto-compaction-mode", "revision", "--auto-compaction-retention", "10000"]
        tls = self.options.tls
        if tls is not None:
            command += ["--cert-file", tls.cert_file, "--key-file", tls.key_file]
            if tls.ca_file:
                command += ["--client-cert-auth", "--trusted-ca-file", tls.ca_file]
        return [*command, *self.options.extra_flags]

    def _token(self) -> str:
        """etcd derives the cluster's id from this and the peer addresses; used only while the data folder is empty."""
        return self.options.cluster_token or self.cluster_token or uuid.uuid4().hex

    def wait_ready(self) -> None:
        """Returns when it answers with a quorum behind it. Raises `FailedPrecondition` or `DeadlineExceeded`."""
        if self.process is None:
            raise FailedPrecondition(f"etcd member {self.name} was not started")
        self.process.wait_ready(self.healthy, timeout_s=self.options.start_timeout_s)

    def healthy(self) -> bool:
        """One linearizable read through the server's own health page."""
        try:
            status, body = _http(self.client_url, "GET", "/health", None, self._probe_context(), timeout_s=2.0)
        except (OSError, http.client.HTTPException):
            return False
        return status == 200 and b'"true"' in body

    def _probe_context(self) -> ssl.SSLContext | None:
        tls = self.options.probe_tls or self.options.tls
        return None if self.options.tls is None or tls is None else client_context(tls)

    def start(self) -> None:
        """`launch` and `wait_ready`."""
        self.launch()
        self.wait_ready()

    def stop(self, *, grace_s: float = 10.0) -> None:
        if self.process is not None:
            self.process.stop(grace_s=grace_s)

    def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        if self.process is not None:
            self.process.kill()

    def pause(self) -> None:
        if self.process is not None:
            self.process.pause()

    def resume(self) -> None:
        if self.process is not None:
            self.process.resume()


class EtcdCluster:
    """Members that form one store. Blocking: call it from asyncio through `asyncio.to_thread`."""

    def __init__(self, members: Sequence[EtcdMember]) -> None:
        self.members = list(members)

    @property
    def endpoints(self) -> tuple[str, ...]:
        return tuple(member.endpoint for member in self.members)

    def config(self, *, tls: TlsConfig | None = None, user: str = "", password_file: str = "") -> EtcdConfig:
        """How to reach it."""
        return EtcdConfig(endpoints=self.endpoints, tls=tls, user=user, password_file=password_file)

    def start(self) -> None:
        """Starts what does not run and waits until every member answers. Stops all of them when one cannot."""
        try:
            for member in self.members:
                if member.process is None or not member.process.running():
                    member.launch()
            for member in self.members:
                member.wait_ready()
        except BaseException:
            self.kill()
            raise

    def stop(self, *, grace_s: float = 10.0) -> None:
        for member in self.members:
            member.stop(grace_s=grace_s)

    def kill(self) -> None:
        for member in self.members:
            member.kill()

    def restart(self) -> None:
        """Stops all members and starts them again on the same data and the same ports."""
        self.stop()
        self.start()

    def wipe(self) -> None:
        """Removes the data of members that do not run: the next start is an empty store with another cluster id."""
        for member in self.members:
            if member.process is not None and member.process.running():
                raise FailedPrecondition(f"etcd member {member.name} still runs: stop it before its data is removed")
            if member.data_dir.exists():
                shutil.rmtree(member.data_dir)
        _share_token(self.members)

    def enable_auth(self, root_password: str, users: Mapping[str, str], *, prefix: str = "/mesh/") -> None:
        """Turns authentication on: `root`, and `users` (name → password), who may read and write below `prefix`."""
        enable_auth(self.members[0], root_password, users, prefix=prefix)


def start_etcd(
    directory: Path, *, options: EtcdOptions | None = None, client_port: int = 0, peer_port: int = 0
) -> EtcdCluster:
    """Starts a single etcd that keeps its data in `directory`, on loopback; returns when it answers.

    A directory used before keeps its data and, where they are free, its ports; they are in `<directory>/etcd.json` with
    the process, so that another process can end it (`stop_group`). Port 0 means any free one.
    Raises `FailedPrecondition` (not installed, port taken, folder in use) or `DeadlineExceeded`.
    """
    options = options or EtcdOptions()
    state = _read_state(directory)
    if state is not None and (running := _running(state)) is not None:
        raise FailedPrecondition(f"an etcd with pid {running.pid} already runs in {directory}: stop it first")
    kept = state or {}
    for attempt in range(1, _ATTEMPTS + 1):
        any_ports = free_ports(2, host=options.host)
        client = client_port or _kept_port(kept, "client_port", options.host) or any_ports[0]
        peer = peer_port or _kept_port(kept, "peer_port", options.host) or any_ports[1]
        member = EtcdMember("local", directory, client, peer, options)
        try:
            cluster = EtcdCluster([member])
            cluster.start()
        except FailedPrecondition as error:
            fixed = client_port and peer_port
            if attempt == _ATTEMPTS or fixed or _PORT_TAKEN not in error.message:
                raise
            continue
        _write_state(member)
        return cluster
    raise FailedPrecondition(f"etcd found no free port in {_ATTEMPTS} attempts")


def start_etcd_cluster(directory: Path, *, members: int = 3, options: EtcdOptions | None = None) -> EtcdCluster:
    """Starts a store of several members in fresh folders below `directory`; returns when all answer."""
    if members < 1:
        raise InvalidArgument(f"a store has at least one member, not {members}")
    options = options or EtcdOptions()
    for attempt in range(1, _ATTEMPTS + 1):
        ports = free_ports(2 * members, host=options.host)
        names = [f"m{index}" for index in range(members)]
        made = [
            EtcdMember(name, directory / name, ports[2 * index], ports[2 * index + 1], options)
            for index, name in enumerate(names)
        ]
        _share_token(made)
        initial = ",".join(f"{member.name}={member.peer_url}" for member in made)
        for member in made:
            member.initial_cluster = initial
        cluster = EtcdCluster(made)
        try:
            cluster.start()
        except FailedPrecondition as error:
            if attempt == _ATTEMPTS or _PORT_TAKEN not in error.message:
                raise
            cluster.wipe()
            continue
        return cluster
    raise FailedPrecondition(f"etcd found no free ports in {_ATTEMPTS} attempts")


def _share_token(members: Sequence[EtcdMember]) -> None:
    token = uuid.uuid4().hex
    for member in members:
        member.cluster_token = token


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _read_state(directory: Path) -> dict[str, object] | None:
    path = directory / STATE_FILE
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise FailedPrecondition(f"{path} is damaged ({error}): remove it to start etcd on new ports") from error
    if not isinstance(state, dict):
        raise FailedPrecondition(f"{path} is damaged (not an object): remove it to start etcd on new ports")
    return state


def _running(state: Mapping[str, object]) -> ProcessId | None:
    process = state.get("process")
    if not isinstance(process, dict):
        return None
    identity = ProcessId.from_dict(process)
    return identity if identity.alive() else None


def _kept_port(state: Mapping[str, object], name: str, host: str) -> int:
    port = state.get(name)
    return port if isinstance(port, int) and is_free(port, host=host) else 0


def _write_state(member: EtcdMember) -> None:
    if member.process is None:
        raise FailedPrecondition(f"etcd member {member.name} was not started")
    state = {
        "client_port": member.client_port,
        "peer_port": member.peer_port,
        "endpoint": member.endpoint,
        "process": member.process.identity.as_dict(),
    }
    path = member.directory / STATE_FILE
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def client_context(tls: TlsConfig) -> ssl.SSLContext:
    """A TLS context for a client; without a CA file the peer is not checked (our own readiness probe on loopback)."""
    context = ssl.create_default_context(cafile=tls.ca_file or None)
    if not tls.ca_file:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.cert_file:
        context.load_cert_chain(tls.cert_file, tls.key_file or None)
    return context


def _http(
    url: str, method: str, path: str, body: object, context: ssl.SSLContext | None, *, timeout_s: float, token: str = ""
) -> tuple[int, bytes]:
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port
    if context is None:
        connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    else:
        connection = http.client.HTTPSConnection(host, port, timeout=timeout_s, context=context)
    try:
        headers = {"Authorization": token} if token else {}
        connection.request(method, path, body=None if body is None else json.dumps(body), headers=headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def enable_auth(member: EtcdMember, root_password: str, users: Mapping[str, str], *, prefix: str) -> None:
    """Creates `root` and `users` and turns authentication on, through the server's JSON gateway. May be repeated."""
    end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
    grant = {"permType": 2, "key": _base64(prefix), "range_end": _base64(end)}
    steps: list[tuple[str, object]] = [
        ("user/add", {"name": "root", "password": root_password}),
        ("role/add", {"name": "root"}),
        ("user/grant", {"user": "root", "role": "root"}),
        ("role/add", {"name": "mesh"}),
        ("role/grant", {"name": "mesh", "perm": grant}),
    ]
    for name, password in users.items():
        steps.append(("user/add", {"name": name, "password": password}))
        steps.append(("user/grant", {"user": name, "role": "mesh"}))
    steps.append(("enable", {}))
    for path, body in steps:
        _auth_call(member, path, body)


def _auth_call(member: EtcdMember, path: str, body: object) -> None:
    deadline = time.monotonic() + member.options.start_timeout_s
    while True:
        status, answer = _http(
            member.client_url,
            "POST",
            f"/v3/auth/{path}",
            body,
            member._probe_context(),
            timeout_s=member.options.start_timeout_s,
        )
        if status == 200 or b"already exist" in answer or b"already granted" in answer:
            return
        if status != 503 or time.monotonic() >= deadline:
            text = answer.decode("utf-8", errors="replace")
            raise Unavailable(f"etcd answered {status} to auth/{path}: {text}")


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
