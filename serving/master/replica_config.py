"""What a replica is created with: its configuration, and what Ray must give it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from serving._proto import records_pb2 as pb
from serving.broker.pulled import with_pulled
from serving.config import EtcdConfig, TlsConfig
from serving.errors import NotSupported
from serving.master.config import MasterConfig
from serving.master.names import ReplicaName
from serving.python_deployment.workers import worker_variables
from serving.store.records import encode
from serving.types import PROXY_HTTP

LIBRARY_PATH: Final = "LD_LIBRARY_PATH"
LIBRARY_SEPARATOR: Final = ":"


@dataclass(frozen=True, slots=True)
class ActorClass:
    """A C++ actor as its library names it: the function that makes it, and the class with its methods."""

    factory: str
    name: str


@dataclass(frozen=True, slots=True)
class PythonActorClass:
    """A class of ours whose methods have the same names as those of C++ actors."""

    module: str
    name: str


_ACTORS: Final[Mapping[str, ActorClass | PythonActorClass]] = {
    "triton": ActorClass("CreateDeploymentActor", "DeploymentActor"),
    "cpp": ActorClass("CreateDeploymentActor", "DeploymentActor"),
    "python": PythonActorClass("serving.python_deployment.actor", "PythonActor"),
    "llm": PythonActorClass("serving.llm.actor", "LlmActor"),
    "embedding": PythonActorClass("serving.embedding.actor", "EmbeddingActor"),
    "semantic_cache": PythonActorClass("serving.cache.actor", "SemanticCacheActor"),
    "broker": PythonActorClass("serving.broker.actor", "BrokerActor"),
    "batch": PythonActorClass("serving.batch.runner.actor", "RunnerActor"),
    "serve": PythonActorClass("serving.serve_deployment.actor", "ServeActor"),
    "proxy": ActorClass("CreateProxyActor", "ProxyActor"),
}
_HTTP_PROXY: Final = PythonActorClass("serving.http_proxy.actor", "HttpProxyActor")


SPREAD: Final = "spread"  # of `Scheduling.strategy`
PACK: Final = "pack"


@dataclass(frozen=True, slots=True)
class Launch:
    """One creation of a replica. `resources` are Ray's custom ones; 0 bytes of memory ask for none."""

    name: ReplicaName
    actor: ActorClass | PythonActorClass
    config_json: str
    num_cpus: float
    num_gpus: float
    memory_bytes: int
    resources: Mapping[str, float] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    max_restarts: int = 0
    log_file: Path | None = None
    node_labels: Mapping[str, str] = field(default_factory=dict)
    strategy: str = ""
    near: str = ""  # of strategy "pack": the node that comes first
    bundles: tuple[Mapping[str, float], ...] = ()  # of its group, its own first, as Ray names resources; none: no group
    bundle_strategy: str = ""


def build_launch(config: MasterConfig, order: pb.Placement, name: ReplicaName, *, near: str = "") -> Launch:
    """`near` is the node on which most replicas of the deployment run.

    Raises `NotSupported` for a kind of deployment that this version cannot start.
    """
    spec = next(spec for spec in order.stored.spec.deployments if spec.name == name.deployment)
    kind = spec.WhichOneof("kind") or "nothing"
    if kind not in _ACTORS:
        raise NotSupported(f"deployment {spec.name}: this version starts {', '.join(_ACTORS)}, not `{kind}`")
    over_http = spec.proxy.protocol == PROXY_HTTP
    make = proxy_config if kind == "proxy" and not over_http else replica_config
    told = make(config, order, spec, name)
    env = merged_env(config.replica_env, spec.env)
    if isinstance(told, pb.ReplicaConfig) and spec.scheduling.bundles:
        env |= worker_variables(told)
    return Launch(
        name=name,
        actor=_HTTP_PROXY if over_http else _ACTORS[kind],
        config_json=encode(told).decode(),
        num_cpus=spec.resources.cpus,
        num_gpus=spec.resources.gpus,
        memory_bytes=spec.resources.memory_bytes,
        resources=_custom(spec.resources),
        env=env,
        max_restarts=spec.max_restarts,
        log_file=log_file(config, name),
        node_labels=dict(spec.scheduling.node_labels),
        strategy=spec.scheduling.strategy,
        near=near if spec.scheduling.strategy == PACK else "",
        bundles=_bundles(spec),
        bundle_strategy=spec.scheduling.bundle_strategy,
    )


def _custom(resources: pb.Resources) -> dict[str, float]:
    custom = dict(resources.custom)
    if resources.accelerator_type:
        custom[f"accelerator_type:{resources.accelerator_type}"] = 0.001  # Ray's own way to pin the type
    return custom


def _bundles(spec: pb.DeploymentSpec) -> tuple[dict[str, float], ...]:
    if not spec.scheduling.bundles:
        return ()
    return tuple(_bundle(resources) for resources in (spec.resources, *spec.scheduling.bundles))


def _bundle(resources: pb.Resources) -> dict[str, float]:
    named = {"CPU": resources.cpus, "GPU": resources.gpus, "memory": resources.memory_bytes}
    return {name: amount for name, amount in {**named, **_custom(resources)}.items() if amount}


def build_update(config: MasterConfig, order: pb.Placement, name: ReplicaName, revision: int) -> str:
    """The `ReplicaUpdate` in canonical JSON that brings a running replica to the order's revision."""
    spec = next(spec for spec in order.stored.spec.deployments if spec.name == name.deployment)
    update = pb.ReplicaUpdate(
        id=name.id,
        generation=name.generation,
        revision=revision,
    )
    if spec.HasField("python"):
        update.config = spec.python.config
    elif spec.HasField("cpp"):
        update.config = spec.cpp.config
    else:
        update.prepare_command.extend(prepare_command(config, spec.triton.repository))
        update.models.extend(spec.triton.models)
    return encode(update).decode()


def merged_env(ours: Mapping[str, str], wanted: Mapping[str, str]) -> dict[str, str]:
    """What the spec says wins, but for the library path: the spec's folders are searched after those we need."""
    path = LIBRARY_SEPARATOR.join(env[LIBRARY_PATH] for env in (ours, wanted) if env.get(LIBRARY_PATH))
    return {**ours, **wanted, **({LIBRARY_PATH: path} if path else {})}


def replica_config(
    config: MasterConfig, order: pb.Placement, spec: pb.DeploymentSpec, name: ReplicaName
) -> pb.ReplicaConfig:
    """The one argument of the deployment actor and of all actors in Python."""
    result = pb.ReplicaConfig(**_common(config, order, spec, name))
    if spec.HasField("python"):
        result.python.CopyFrom(spec.python)
        result.cache_dir = config.cache_dir
    elif spec.HasField("cpp"):
        result.cpp.CopyFrom(spec.cpp)
        result.prepare_command.extend(prepare_command(config, spec.cpp.repository, spec.cpp.code))
    elif spec.HasField("llm"):
        result.llm.CopyFrom(spec.llm)
        result.cache_dir = config.cache_dir
    elif spec.HasField("embedding"):
        result.embedding.CopyFrom(spec.embedding)
        result.cache_dir = config.cache_dir
    elif spec.HasField("semantic_cache"):
        result.semantic_cache.CopyFrom(spec.semantic_cache)
        result.cache_dir = config.cache_dir
    elif spec.HasField("broker"):
        result.broker.CopyFrom(with_pulled(spec, order.stored.spec).broker)
        result.cache_dir = config.cache_dir
    elif spec.HasField("batch"):
        result.batch.CopyFrom(spec.batch)
        result.cache_dir = config.cache_dir
    elif spec.HasField("serve"):
        result.serve.CopyFrom(spec.serve)
        result.cache_dir = config.cache_dir
        result.env.update(spec.env)
    elif spec.HasField("proxy"):
        result.proxy.CopyFrom(spec.proxy)
        if config.require_keys is not None:
            result.require_keys = config.require_keys
    else:
        result.triton.CopyFrom(spec.triton)
        result.prepare_command.extend(prepare_command(config, spec.triton.repository))
    if config.serving_tls is not None:
        result.serving_tls.CopyFrom(_tls(config.serving_tls))
    return result


def proxy_config(
    config: MasterConfig, order: pb.Placement, spec: pb.DeploymentSpec, name: ReplicaName
) -> pb.ProxyConfig:
    """The one argument of the actor of gRPC proxies. It speaks to replicas with what they present themselves."""
    result = pb.ProxyConfig(
        **_common(config, order, spec, name),
        hold_s=spec.proxy.hold_s,
        max_message_bytes=spec.proxy.max_message_bytes,
        busy_poll_us=spec.proxy.busy_poll_us,
    )
    if spec.proxy.HasField("policy"):
        result.policy.CopyFrom(spec.proxy.policy)
    if config.serving_tls is not None:
        result.serving_tls.CopyFrom(_tls(config.serving_tls))
        result.endpoint_tls.CopyFrom(_tls(config.serving_tls))
    return result


def _common(config: MasterConfig, order: pb.Placement, spec: pb.DeploymentSpec, name: ReplicaName) -> dict[str, Any]:
    """Fields that every process of an application is told alike."""
    log = log_file(config, name)
    return {
        "id": name.id,
        "namespace": name.app.namespace,
        "application": name.app.name,
        "deployment": spec.name,
        "cluster": config.cluster,
        "generation": name.generation,
        "revision": name.revision,
        "labels": dict(order.stored.spec.labels),
        "etcd": _etcd(config.etcd),
        "lease_ttl_s": config.lease_ttl_s,
        "listen_host": config.listen_host,
        "advertise_host": config.advertise_host,
        "drain_timeout_s": spec.drain_timeout_s,
        "log_level": config.log_level,
        "log_file": str(log) if log else "",
    }


def _etcd(etcd: EtcdConfig) -> pb.EtcdConnection:
    made = pb.EtcdConnection(endpoints=etcd.endpoints, user=etcd.user, password_file=etcd.password_file)
    if etcd.tls is not None:
        made.tls.CopyFrom(_tls(etcd.tls))
    return made


def log_file(config: MasterConfig, name: ReplicaName) -> Path | None:
    return config.log_file("replicas", name.app.namespace, name.app.name, name.deployment, f"{name.id}.log")


def prepare_command(config: MasterConfig, repository: pb.Artifact, code: pb.Artifact | None = None) -> list[str]:
    """Run by the replica's process on its node: fetches the artifacts and composes the backend directory."""
    command = [config.python, "-m", "serving.deployment.prepare"]
    for prefix, artifact in (("", repository), ("code-", code)):
        if artifact is not None and artifact.uri:
            command += [f"--{prefix}uri", artifact.uri, f"--{prefix}digest", artifact.digest]
            command += [f"--{prefix}size", str(artifact.size_bytes)]
    return [*command, "--cache-dir", config.cache_dir]


def _tls(tls: TlsConfig) -> pb.TlsFiles:
    return pb.TlsFiles(ca=tls.ca_file, cert=tls.cert_file, key=tls.key_file)
