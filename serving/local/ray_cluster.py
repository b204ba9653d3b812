"""Real Ray clusters on this machine: several at once, each known by its own processes and ended by them.

`ray stop` ends every cluster of the machine, and a Ray head asked to end politely takes up to half a minute and may
leave its GCS behind. So a cluster here is one session of processes, led by `ray start --block`, and it is ended by that
session. Whoever wants its replicas drained removes the applications first.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import serving
from serving.errors import Cancelled, DeadlineExceeded, FailedPrecondition, InvalidArgument
from serving.local.ports import free_ports
from serving.local.process import Process, log_tail
from serving.process_id import TOKEN_VARIABLE, ProcessId
from serving.types import NAME_RULE, is_name

STATE_FILE: Final = "ray.json"
TOKEN_FILE: Final = "ray.token"
MAX_TEMP_DIR_BYTES: Final = 107 - len("/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")
_ATTEMPTS: Final = 5
_STARTED: Final = "Ray runtime started."
_TOO_SLOW: Final = "timed out during startup"  # Ray gives its parts 30 s, and then does not end
_TAKEN: Final = ("address already in use", "Failed to bind", "already occupied", "already in use", "used by other")
_TRY_AGAIN: Final = (*_TAKEN, _TOO_SLOW)
_GONE_TIMEOUT_S: Final = 20.0
_ALONE: Final = threading.Lock()  # clusters that start together slow each other down: the next attempt is one's own


@dataclass(frozen=True, slots=True)
class RayClusterOptions:
    """What the only node of a local cluster says it has. `memory_bytes` 0: what the machine has, as Ray counts it."""

    num_cpus: int = 4
    num_gpus: int = 0
    resources: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)  # of the node
    memory_bytes: int = 0
    object_store_bytes: int = 100 * 1024 * 1024
    start_timeout_s: float = 180.0
    env: Mapping[str, str] = field(default_factory=dict)  # of all its processes, actors too
    die_with_parent: bool = False


class RayCluster:
    """A running cluster. Blocking: call it from asyncio through `asyncio.to_thread`."""

    def __init__(
        self, name: str, directory: Path, address: str, identity: ProcessId, link: Path | None, process: Process | None
    ) -> None:
        self.name = name
        self.directory = directory
        self.address = address  # host:port of its GCS, for `ray.init(address=...)`
        self.identity = identity
        self._link = link
        self._process = process

    @property
    def token_file(self) -> Path:
        return self.directory / TOKEN_FILE

    @property
    def log_file(self) -> Path:
        return self.directory / "ray.log"

    @property
    def client_env(self) -> dict[str, str]:
        """What a driver's environment needs *before* it imports Ray."""
        return ray_environment(self.token_file)

    def running(self) -> bool:
        """True while its leading process runs. The leader ends when GCS or raylet end, and they end with it."""
        return self.identity.alive()

    def pids(self) -> list[int]:
        """Every process of the cluster, actors included (they have process groups of their own)."""
        return _session_pids(self.identity)

    def stop(self) -> None:
        """Ends every process of it and removes its state and sockets; logs stay. May be repeated."""
        self.kill()
        _remove_link(self._link)
        (self.directory / STATE_FILE).unlink(missing_ok=True)

    def kill(self) -> None:
        """SIGKILL for all of its processes at once, as if the machine was lost. Returns when they are gone."""
        deadline = time.monotonic() + _GONE_TIMEOUT_S
        while pids := self.pids():
            if time.monotonic() > deadline:
                raise DeadlineExceeded(f"Ray cluster {self.name}: pids {pids} survive SIGKILL: look at them in /proc")
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        if self._process is not None:
            self._process.kill()  # nothing runs any more: this reaps the leader


def ray_environment(token_file: Path) -> dict[str, str]:
    """Environment of everything that talks to a local cluster: token authentication on, addresses on loopback.

    Ray otherwise replaces 127.0.0.1 by the machine's outward address, and listens on all of them; the switch that turns
    this off is named after the platforms on which it is the default.
    """
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_file),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }


def start_ray_cluster(
    name: str, directory: Path, *, options: RayClusterOptions | None = None, stop: threading.Event | None = None
) -> RayCluster:
    """Starts a head node on loopback that keeps everything in `directory`; returns when it takes actors.

    Raises `InvalidArgument` (a bad name), `FailedPrecondition` (one runs there already, Ray is missing or ends at
    once; its last output is in the message), `DeadlineExceeded`, or `Cancelled` when `stop` is set meanwhile.
    Nothing is left running after an error.
    """
    options = options or RayClusterOptions()
    if not is_name(name):
        raise InvalidArgument(f"{name!r} is no name for a cluster: {NAME_RULE}")
    running = find_ray_cluster(directory)
    if running is not None and running.running():
        raise FailedPrecondition(f"a Ray cluster with pid {running.identity.pid} runs in {directory}: stop it first")
    if running is not None:
        running.stop()  # what a lost leader left behind
    directory.mkdir(parents=True, exist_ok=True)
    _ensure_token(directory / TOKEN_FILE)
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with _ALONE if attempt > 1 else contextlib.nullcontext():
                return _start_once(name, directory, options, stop or threading.Event())
        except FailedPrecondition as error:
            if attempt == _ATTEMPTS or not any(text in error.message for text in _TRY_AGAIN):
                raise
    raise FailedPrecondition(f"Ray cluster {name} did not start in {_ATTEMPTS} attempts")


def find_ray_cluster(directory: Path) -> RayCluster | None:
    """The cluster that was started in `directory`, running or not; None when none was, or it was stopped."""
    path = directory / STATE_FILE
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        link = Path(state["link"]) if state["link"] else None
        identity = ProcessId.from_dict(state["process"])
        return RayCluster(state["name"], directory, state["address"], identity, link, None)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, InvalidArgument) as error:
        raise FailedPrecondition(f"{path} is damaged ({error}): end its processes by hand and remove it") from error


def _start_once(name: str, directory: Path, options: RayClusterOptions, stop: threading.Event) -> RayCluster:
    temp_dir, link = _temp_dir(directory / "ray")
    log_file = directory / "ray.log"
    log_file.unlink(missing_ok=True)
    ports = free_ports(9)
    try:
        process = Process.start(
            f"ray cluster {name}",
            _command(temp_dir, ports, options),
            log_file=log_file,
            env=_environment(directory / TOKEN_FILE, ports[-1], options),
            cwd=directory,
            die_with_parent=options.die_with_parent,
        )
    except BaseException:
        _remove_link(link)
        raise
    cluster = RayCluster(name, directory, f"127.0.0.1:{ports[0]}", process.identity, link, process)
    try:
        process.wait_ready(lambda: _has_started(name, log_file, stop), timeout_s=options.start_timeout_s)
        _wait_listening(cluster, options.start_timeout_s)
        _write_state(cluster, link)
    except BaseException:
        cluster.stop()
        raise
    return cluster


def _has_started(name: str, log_file: Path, stop: threading.Event) -> bool:
    if stop.is_set():
        raise Cancelled(f"Ray cluster {name} was ended while it started")
    said = log_tail(log_file)
    if _TOO_SLOW in said:
        raise FailedPrecondition(f"Ray cluster {name} {_TOO_SLOW} (a busy machine?); end of {log_file}:\n{said}")
    return _STARTED in said


def _command(temp_dir: Path, ports: list[int], options: RayClusterOptions) -> list[str]:
    ray = Path(sys.executable).parent / "ray"
    if not ray.exists():
        raise FailedPrecondition(f"{ray} is missing; install it: {sys.executable} -m pip install 'ray[default,cpp]'")
    gcs, node_manager, object_manager, agent_http, agent_grpc, runtime_env, metrics, dashboard, _ = ports
    command = [str(ray), "start", "--head", "--block", "--disable-usage-stats", "--no-monitor"]
    command += ["--include-dashboard=false", "--include-log-monitor=false", "--node-ip-address=127.0.0.1"]
    command += [f"--temp-dir={temp_dir}", f"--port={gcs}", f"--node-manager-port={node_manager}"]
    command += [f"--object-manager-port={object_manager}", f"--dashboard-agent-listen-port={agent_http}"]
    command += [f"--dashboard-agent-grpc-port={agent_grpc}", f"--runtime-env-agent-port={runtime_env}"]
    command += [f"--metrics-export-port={metrics}", f"--dashboard-port={dashboard}"]
    # 0: each worker takes any port of the kernel's own range, which none of the ports above is in, so that clusters of
    # one machine cannot meet.
    command += ["--min-worker-port=0", "--max-worker-port=0"]
    command += [f"--num-cpus={options.num_cpus}", f"--num-gpus={options.num_gpus}"]
    command += [f"--object-store-memory={options.object_store_bytes}"]
    if options.resources:
        command.append(f"--resources={json.dumps(dict(options.resources))}")
    if options.labels:
        command.append("--labels=" + ",".join(f"{key}={value}" for key, value in sorted(options.labels.items())))
    if options.memory_bytes:
        command.append(f"--memory={options.memory_bytes}")
    return command


def _environment(token_file: Path, dashboard_metrics_port: int, options: RayClusterOptions) -> dict[str, str]:
    root = str(Path(serving.__file__).resolve().parent.parent)  # actors import the mesh from where we run
    path = [root, *(part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part and part != root)]
    return {
        **ray_environment(token_file),
        "RAY_worker_niceness": "0",  # Ray's default of 15 starves replicas beside anything else
        "RAY_START_HOOK": "serving.local.ray_start_hook.apply",
        "DASHBOARD_METRIC_PORT": str(dashboard_metrics_port),
        "PYTHONPATH": os.pathsep.join(path),
        **options.env,
    }


def _ensure_token(path: Path) -> None:
    """A token of its own for each cluster, readable by the owner only."""
    with contextlib.suppress(FileExistsError):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32))


def _temp_dir(wanted: Path) -> tuple[Path, Path | None]:
    """Where Ray keeps its session, and the link to remove afterwards.

    Ray puts unix sockets below it, whose paths may have 107 bytes. A longer folder is reached through a link in a
    private folder of the temporary directory.
    """
    wanted.mkdir(parents=True, exist_ok=True)
    wanted = wanted.resolve()
    if len(os.fsencode(wanted)) <= MAX_TEMP_DIR_BYTES:
        return wanted, None
    for base in dict.fromkeys((tempfile.gettempdir(), "/tmp", "/var/tmp")):
        if len(os.fsencode(base)) + len("/mesh-xxxxxxxx/r") > MAX_TEMP_DIR_BYTES or not os.access(base, os.W_OK):
            continue
        link = Path(tempfile.mkdtemp(prefix="mesh-", dir=base)) / "r"
        link.symlink_to(wanted)
        return link, link
    raise FailedPrecondition(
        f"{wanted} is too long for Ray's unix sockets (at most {MAX_TEMP_DIR_BYTES} bytes) and there is no short "
        f"temporary folder to link it from: choose a shorter mesh folder, or set TMPDIR to a short one"
    )


def _remove_link(link: Path | None) -> None:
    if link is not None:
        with contextlib.suppress(FileNotFoundError):
            link.unlink()
            link.parent.rmdir()


def _wait_listening(cluster: RayCluster, timeout_s: float) -> None:
    host, port = cluster.address.rsplit(":", 1)
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=1.0).close()
            return
        except OSError as error:
            if time.monotonic() > deadline or not cluster.running():
                said = log_tail(cluster.log_file)
                raise FailedPrecondition(
                    f"GCS of {cluster.name} does not listen at {cluster.address}: {said}"
                ) from error
            time.sleep(0.05)


def _write_state(cluster: RayCluster, link: Path | None) -> None:
    state = {
        "name": cluster.name,
        "address": cluster.address,
        "process": cluster.identity.as_dict(),
        "link": str(link) if link else "",
    }
    path = cluster.directory / STATE_FILE
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def _session_pids(leader: ProcessId) -> list[int]:
    """Living processes of the leader's session.

    While the leader is there, if only as a zombie, its session is ours. Afterwards only what carries its token is,
    since the number of a session can be given away. (Ray's own agents lose their environment to their process titles.)
    """
    ours = _leader_remains(leader)
    return [pid for pid, session in _sessions() if session == leader.pid and (ours or _carries(pid, leader.token))]


def _leader_remains(leader: ProcessId) -> bool:
    try:
        found = ProcessId.of(leader.pid)
    except FailedPrecondition:
        return False
    return found.start_ticks == leader.start_ticks and found.boot_id == leader.boot_id


def _sessions() -> Iterator[tuple[int, int]]:
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = (
                Path(f"/proc/{entry}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            )
            if fields[0] not in "ZX":
                yield int(entry), int(fields[3])


def _carries(pid: int, token: str) -> bool:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False
    return f"{TOKEN_VARIABLE}={token}".encode() in environment.split(b"\0")
