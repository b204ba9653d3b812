"""The Ray calls of an agent. Blocking ones run on one thread of their own."""

from __future__ import annotations

import asyncio
import importlib.metadata
import ipaddress
import logging
import os
import platform
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

from serving._proto import records_pb2 as pb
from serving.cluster_agent.claim import Claim
from serving.cluster_agent.config import AgentConfig
from serving.cluster_agent.model import ClusterFacts, Node
from serving.deployment.libraries import check_actor_library
from serving.errors import DataLoss, FailedPrecondition, MeshError, Unavailable
from serving.master.names import MasterName, parse_master, parse_replica, ray_namespace
from serving.store.records import decode, encode
from serving.timeouts import wait_for
from serving.version import VERSION

T = TypeVar("T")
_LOG: Final = logging.getLogger(__name__)
_CALL_TIMEOUT_S: Final = 5.0
_CLAIM_KEY: Final = b"mesh/agent"
_LOOPBACK_SWITCH: Final = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


def prepare_environment(config: AgentConfig) -> None:
    """What Ray reads from the environment, set before it is imported. The process is the agent's own."""
    if config.ray_token_file:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN_PATH"] = config.ray_token_file
    host = config.ray_address.rpartition(":")[0].strip("[]")
    if _is_loopback(host):  # else Ray replaces it by the machine's outward address, where nobody listens
        os.environ.setdefault(_LOOPBACK_SWITCH, "0")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class RaySide:
    """One driver of the cluster. Everything raises `Unavailable` when Ray does not answer, and may be repeated."""

    def __init__(self, config: AgentConfig) -> None:
        self._config = config
        self._namespace = ray_namespace(config.mesh)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ray-calls")
        self._connected = False

    async def connect(self) -> None:
        """Joins the cluster as a driver. Raises `FailedPrecondition` when the C++ actor's library is missing."""
        if self._connected:
            return
        library = check_actor_library(self._config.library_path())
        await self._knock()  # Ray itself waits for minutes, and may then end the process
        await self._call(lambda: _connect(self._config.ray_address, self._namespace, library))
        self._connected = True

    async def facts(self) -> ClusterFacts:
        """Nodes and the mesh's living actors."""
        return await self._call(lambda: _facts(self._namespace))

    async def start_master(self, order: pb.Placement) -> None:
        """Finds the master when it is there already. Returns before its process runs."""
        config = self._config.master_config().to_json()
        await self._call(lambda: _start_master(self._namespace, order, config))

    async def work_order(self, name: MasterName) -> pb.Placement:
        """The work order that a master follows."""
        try:
            return decode(pb.Placement, (await self._ask(name, "work_order")).encode())
        except DataLoss as error:
            raise Unavailable(f"{name} answered something else than a work order: {error.message}") from error

    async def stop(self, name: MasterName) -> bool:
        """Has a master drain and end its replicas; True when all have ended."""
        return bool(await self._ask(name, "stop"))

    async def ping(self, name: MasterName) -> None:
        await self._ask(name, "ping")

    async def kill(self, name: MasterName, *, restart: bool) -> None:
        """Ends a master's process. Gone is no error."""
        await self._call(lambda: _kill(self._namespace, name, restart))

    async def read_claim(self) -> Claim | None:
        """Who holds the mesh's name in this Ray cluster; what is damaged is nobody's."""
        data = await self._call(lambda: _kv().internal_kv_get(_CLAIM_KEY, self._namespace.encode()))
        try:
            return Claim.from_bytes(data) if data else None
        except DataLoss as error:
            _LOG.error("the claim of the mesh's name is damaged and is replaced", extra={"error": error.message})
            return None

    async def write_claim(self, claim: Claim) -> None:
        """Raises `Unavailable`."""
        data = claim.to_bytes()
        await self._call(lambda: _kv().internal_kv_put(_CLAIM_KEY, data, True, self._namespace.encode()))

    async def close(self) -> None:
        """Leaves the cluster; what runs there keeps running."""
        if self._connected:
            self._connected = False
            await self._call(_disconnect)
        self._thread.shutdown(wait=False)

    async def _knock(self) -> None:
        host, _, port = self._config.ray_address.rpartition(":")
        if not port.isdigit():
            raise FailedPrecondition(f"ray_address {self._config.ray_address!r} is not host:port")
        try:
            opening = asyncio.open_connection(host.strip("[]"), int(port))
            _, writer = await wait_for(opening, _CALL_TIMEOUT_S)
        except (OSError, asyncio.TimeoutError) as error:
            reason = str(error) or "no answer"
            raise Unavailable(f"there is no Ray at {self._config.ray_address}: {reason}") from error
        writer.close()

    async def _call(self, function: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, function)
        except MeshError:
            raise
        except Exception as error:  # Ray raises bare exceptions of many kinds
            raise Unavailable(f"Ray at {self._config.ray_address} does not answer: {error}") from error

    async def _ask(self, name: MasterName, method: str) -> Any:
        from ray.exceptions import RayError

        reference = await self._call(lambda: getattr(_master(self._namespace, name), method).remote())
        try:
            return await wait_for(asyncio.wrap_future(reference.future()), _CALL_TIMEOUT_S)
        except asyncio.TimeoutError as error:
            # The call is not cancelled: raylet would try to reach the hung process for that, fail, and then ignore a
            # later kill, which it passes on through the same broken connection (Ray 2.60).
            raise Unavailable(f"{name} did not answer {method} within {_CALL_TIMEOUT_S:g} s") from error
        except RayError as error:
            raise Unavailable(f"{name} did not answer {method}: {error}") from error


def _kv() -> Any:
    import ray

    return ray._private.worker.global_worker.gcs_client


def _connect(address: str, namespace: str, library: Path) -> None:
    import ray
    from ray.job_config import JobConfig

    if ray.is_initialized():
        ray.shutdown()
    # With a code search path Ray imports actors' classes by name instead of shipping them; whoever looks a master or a
    # replica up must have joined with one too.
    job = JobConfig(code_search_path=[str(library)], ray_namespace=namespace)
    ray.init(address=address, namespace=namespace, job_config=job, log_to_driver=False, logging_level="warning")


def _disconnect() -> None:
    import ray

    ray.shutdown()


def _facts(namespace: str) -> ClusterFacts:
    import ray
    from ray._private.state import available_resources_per_node

    from serving.master.ray_actors import node_address, read_actors

    available = available_resources_per_node()
    nodes = tuple(
        Node(
            id=row["NodeID"],
            address=row["NodeManagerAddress"],
            total=row["Resources"],
            available=available.get(row["NodeID"], {}),
            labels={name: text for name, text in row["Labels"].items() if name != "ray.io/node-id"},
        )
        for row in ray.nodes()
        if row["Alive"]
    )
    return ClusterFacts(nodes, read_actors(namespace, _is_ours, dead=False), _versions(), node_address())


def _is_ours(name: str) -> bool:
    return parse_master(name) is not None or parse_replica(name) is not None


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "mesh": VERSION}
    for name, package in (("ray", "ray"), ("triton", "nvidia-pytriton")):
        try:
            found[name] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _start_master(namespace: str, order: pb.Placement, config_json: str) -> None:
    import ray

    from serving.master.actor import MasterActor
    from serving.master.order import app_key

    name = MasterName(app_key(order), order.generation)
    options = {
        "name": str(name),
        "namespace": namespace,
        "lifetime": "detached",
        "get_if_exists": True,
        "num_cpus": 0,
        "max_restarts": -1,
        "max_task_retries": 0,  # each call has its own deadline, and is repeated by whoever still wants it
    }
    ray.remote(MasterActor).options(**options).remote(config_json, encode(order).decode())


def _master(namespace: str, name: MasterName) -> Any:
    import ray

    try:
        return ray.get_actor(str(name), namespace=namespace)
    except ValueError as error:
        raise Unavailable(f"there is no actor {name}") from error


def _kill(namespace: str, name: MasterName, restart: bool) -> None:
    import ray

    try:
        handle = ray.get_actor(str(name), namespace=namespace)
    except ValueError:
        return
    ray.kill(handle, no_restart=not restart)
