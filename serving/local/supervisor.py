"""The process that owns a local mesh: starts etcd, the Ray clusters, keepers, agents and the gateway, and keeps them
running.

etcd, keepers, agents and the gateway that end are started again with growing pauses; a Ray cluster that ends is not:
its applications move to another cluster, and it is for a person to bring it back, by `mesh down` and `mesh up`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

from serving.errors import AlreadyExists, FailedPrecondition, MeshError
from serving.local.children import Child, ChildSpec, agent_spec, gateway_grpc_spec, gateway_spec, keeper_spec
from serving.local.etcd import EtcdCluster, EtcdMember, start_etcd
from serving.local.leftovers import end_leftovers
from serving.local.log_bounds import CHECK_S, bound_logs
from serving.local.options import UpOptions, cluster_names
from serving.local.plan import MeshPlan, external_plan, local_plan
from serving.local.ports import is_free
from serving.local.ray_cluster import RayCluster, RayClusterOptions, find_ray_cluster, start_ray_cluster
from serving.local.ready import wait_until_serving
from serving.local.restart_pauses import RestartPauses
from serving.local.start_report import reported_error
from serving.local.state import ClusterState, MeshState, ProcessRecord, load_state
from serving.observe import configure_logging
from serving.process_id import ProcessId

Progress = Callable[[str], None]
_LOCK_FILE: Final = ".lock"
_WATCH_S: Final = 0.5
_log = logging.getLogger(__name__)


class Supervisor:
    """Owns the processes of one mesh folder. `start`, then `watch`, then `stop`, all on one thread."""

    def __init__(self, options: UpOptions, on_progress: Progress) -> None:
        self._options = options
        self._progress = on_progress
        self._dir = options.mesh_dir.absolute()
        self._lock: contextlib.ExitStack = contextlib.ExitStack()
        self._etcd: EtcdCluster | None = None
        self._etcd_pauses = RestartPauses()  # there is one member
        self._ray: dict[str, RayCluster] = {}
        self._children: list[Child] = []
        self._state: MeshState | None = None
        self._keepers = options.keepers

    def start(self, stop: threading.Event) -> MeshState:
        """Brings everything up and returns when keepers and agents have reported. Ends all of it on an error."""
        self._lock.enter_context(hold_lock(self._dir))
        try:
            self._end_leftovers()
            plan = self._infrastructure(stop)
            self._start_children(plan)
            self._progress("waiting for keepers and agents to report")
            wait_until_serving(plan, self._keepers, self._options.start_timeout_s, stop, self._check_children)
            self._save(phase="ready")
        except BaseException:
            self.stop()
            raise
        if self._state is None:
            raise FailedPrecondition("the mesh was ended while it started")
        return self._state

    def watch(self, stop: threading.Event) -> None:
        """Starts again what ends, until `stop` is set."""
        dead: set[str] = set()
        logs_at_s = 0.0
        while not stop.wait(_WATCH_S):
            self._watch_etcd(time.monotonic())
            if time.monotonic() >= logs_at_s:
                bound_logs(self._dir)
                logs_at_s = time.monotonic() + CHECK_S
            for child in self._children:
                if child.keep_running(time.monotonic()):
                    self._record(child.record())
            for name, cluster in self._ray.items():
                if name not in dead and not cluster.running():
                    dead.add(name)
                    _log.error(
                        "a Ray cluster ended: its applications move elsewhere; `mesh down` and `mesh up` bring it back",
                        extra={"cluster": name, "log_file": str(cluster.log_file)},
                    )

    def stop(self) -> None:
        """Ends everything, in the order in which nobody misses anybody. May be repeated."""
        if self._state is not None:
            self._save(phase="stopping")
        for child in reversed(self._children):
            child.stop()
        self._children.clear()
        for cluster in self._ray.values():
            cluster.stop()
        self._ray.clear()
        if self._etcd is not None:
            self._etcd.stop()
            self._etcd = None
        self._lock.close()

    def _end_leftovers(self) -> None:
        for name in cluster_names(self._options.clusters):
            left = find_ray_cluster(self._dir / "ray" / name)
            if left is not None:
                left.stop()
        with contextlib.suppress(MeshError):
            end_leftovers(load_state(self._dir), self._progress)

    def _infrastructure(self, stop: threading.Event) -> MeshPlan:
        if self._options.config_file is not None:
            plan, self._keepers = external_plan(self._dir, self._options.config_file)
        else:
            self._refuse_taken_ports()
            self._progress("starting etcd")
            self._etcd = start_etcd(self._dir / "etcd")
            names = cluster_names(self._options.clusters)
            self._progress(f"starting Ray clusters {', '.join(names)}")
            gpus = self._options.gpus()
            with ThreadPoolExecutor(len(names)) as pool:
                list(pool.map(lambda name: self._start_ray(name, gpus, stop), names))
            plan = local_plan(
                self._dir,
                self._etcd.config(),
                self._ray,
                gateway_port=self._options.gateway_port,
                require_keys=self._options.require_keys,
                gateway_grpc_port=self._options.gateway_grpc_port,
            )
        self._state = MeshState(
            mesh_dir=self._dir,
            phase="starting",
            etcd=plan.etcd_section(),
            artifacts=plan.artifacts,
            clusters=tuple(ClusterState(c.name, c.ray_address, c.token_file) for c in plan.clusters),
            tls=asdict(plan.client_tls) if plan.client_tls else None,
            gateway=plan.gateway,
            gateway_grpc=plan.gateway_grpc,
        )
        self._record(ProcessRecord("supervisor", "supervisor", ProcessId.of(os.getpid())))
        self._record_infrastructure()
        return plan

    def _refuse_taken_ports(self) -> None:
        options = self._options
        for name, port in (("gateway-port", options.gateway_port), ("gateway-grpc-port", options.gateway_grpc_port)):
            if port and not is_free(port):
                raise FailedPrecondition(f"--{name} {port}: somebody listens there already; choose another port")

    def _start_ray(self, name: str, gpus: int, stop: threading.Event) -> None:
        """Kept at once, so that it is ended too when another one cannot start."""
        options = RayClusterOptions(
            num_cpus=self._options.cpus(), num_gpus=gpus, start_timeout_s=self._options.start_timeout_s
        )
        self._ray[name] = start_ray_cluster(name, self._dir / "ray" / name, options=options, stop=stop)

    def _record_infrastructure(self) -> None:
        if self._etcd is not None:
            for member in self._etcd.members:
                if member.process is not None:
                    self._record(ProcessRecord("etcd", "etcd", member.process.identity, str(member.log_file)))
        for name, cluster in self._ray.items():
            self._record(ProcessRecord(f"ray-{name}", "ray", cluster.identity, str(cluster.log_file)))

    def _start_children(self, plan: MeshPlan) -> None:
        self._progress(
            "starting keepers, cluster agents and gateways" if plan.gateway else "starting keepers and cluster agents"
        )
        specs: list[ChildSpec] = [keeper_spec(plan, index) for index in range(self._keepers)]
        specs += [agent_spec(plan, cluster) for cluster in plan.clusters]
        if plan.gateway:
            specs.append(gateway_spec(plan))
        if plan.gateway_grpc:
            specs.append(gateway_grpc_spec(plan))
        for spec in specs:
            child = Child(spec)
            self._children.append(child)
            child.start()
            self._record(child.record())

    def _check_children(self) -> None:
        """While the mesh starts, a child that ends stops the start: a configuration error would only repeat."""
        for child in self._children:
            child.raise_if_ended()

    def _watch_etcd(self, now_s: float) -> None:
        if self._etcd is None:
            return
        for member in self._etcd.members:
            if member.process is None or member.process.running():
                continue
            if self._etcd_pauses.ended(now_s):
                status, log_file = member.process.exit_status(), str(member.log_file)
                _log.error("etcd ended and is started again", extra={"status": status, "log_file": log_file})
            if self._etcd_pauses.over(now_s):
                self._start_etcd_again(member, now_s)

    def _start_etcd_again(self, member: EtcdMember, now_s: float) -> None:
        try:
            member.launch()
        except MeshError as error:
            _log.error("etcd cannot be started", extra={"error": error.message})
        self._etcd_pauses.started(now_s)
        self._record_infrastructure()

    def _record(self, record: ProcessRecord) -> None:
        if self._state is not None:
            self._state = self._state.with_process(record)
            self._state.save()

    def _save(self, *, phase: str) -> None:
        if self._state is not None:
            self._state = replace(self._state, phase=phase)
            self._state.save()


def make_mesh_dir(mesh_dir: Path) -> None:
    """Creates the mesh's folder, or takes an empty one: only its owner may look into it. May be repeated.

    A folder that already holds something keeps its mode: it may be there for others too.
    """
    mesh_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not mesh_dir.stat().st_mode & 0o077:
        return
    if any(mesh_dir.iterdir()):
        _log.warning("others can look into the mesh's folder; chmod 700 closes it", extra={"mesh_dir": str(mesh_dir)})
    else:
        mesh_dir.chmod(0o700)


@contextlib.contextmanager
def hold_lock(mesh_dir: Path) -> Iterator[None]:
    """Holds the folder's lock. Raises `AlreadyExists` when another supervisor has it."""
    make_mesh_dir(mesh_dir)
    with (mesh_dir / _LOCK_FILE).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyExists(
                f"a mesh is running or starting in {mesh_dir}: end it with `mesh down --dir {mesh_dir}`, or choose "
                "another folder with --dir"
            ) from None
        yield


def main(arguments: str) -> int:
    """The detached supervisor: reports on standard output until the mesh is ready, then works silently."""
    configure_logging(process="supervisor")
    values = json.loads(arguments)
    config_file = values.pop("config_file")
    mesh_dir = Path(values.pop("mesh_dir"))
    options = UpOptions(mesh_dir=mesh_dir, config_file=Path(config_file) if config_file else None, **values)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())

    def report(event: dict[str, object]) -> None:
        with contextlib.suppress(BrokenPipeError):  # whoever waited has gone; the mesh goes on
            print(json.dumps(event), flush=True)

    supervisor = Supervisor(options, lambda text: report({"progress": text}))
    try:
        supervisor.start(stop)
    except Exception as error:  # noqa: BLE001 - the last stop: reported to the process that waits, and logged
        _log.exception("the mesh did not start")
        report(reported_error(error))
        return 1
    report({"ready": True})
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
    supervisor.watch(stop)
    supervisor.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
