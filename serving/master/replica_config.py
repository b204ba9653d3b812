"""What a replica is created with: its configuration, and what Ray must give it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from serving._proto import records_pb2 as pb
from serving.config import EtcdConfig, TlsConfig
from serving.errors import NotSupported
from serving.master.config import MasterConfig
from serving.master.names import ReplicaName
from serving.store.records import encode

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
    "python": PythonActorClass("serving.python_deployment.actor", "PythonActor"),
    "proxy": ActorClass("CreateProxyActor", "ProxyActor"),
}


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


def build_launch(config: MasterConfig, order: pb.Placement, name: ReplicaName) -> Launch:
    """Raises `NotSupported` for a kind of deployment that this version cannot start."""
    spec = next(spec for spec in order.stored.spec.deployments if spec.name == name.deployment)
    kind = spec.WhichOneof("kind") or "nothing"
    if kind not in _ACTORS:
        raise NotSupported(f"deployment {spec.name}: this version starts {', '.join(_ACTORS)}, not `{kind}`")
    make = proxy_config if kind == "proxy" else replica_config
    resources = dict(spec.resources.custom)
    if spec.resources.accelerator_type:
        resources[f"accelerator_type:{spec.resources.accelerator_type}"] = 0.001  # Ray's own way to pin the type
    return Launch(
        name=name,
        actor=_ACTORS[kind],
        config_json=encode(make(config, order, spec, name)).decode(),
        num_cpus=spec.resources.cpus,
        num_gpus=spec.resources.gpus,
        memory_bytes=spec.resources.memory_bytes,
        resources=resources,
        env=merged_env(config.replica_env, spec.env),
        max_restarts=spec.max_restarts,
        log_file=log_file(config, name),
    )


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
    """The one argument of the deployment actor and of the Python actor."""
    result = pb.ReplicaConfig(**_common(config, order, spec, name))
    if spec.HasField("python"):
        result.python.CopyFrom(spec.python)
        result.cache_dir = config.cache_dir
    else:
        result.triton.CopyFrom(spec.triton)
        result.prepare_command.extend(prepare_command(config, spec.triton.repository))
    if config.serving_tls is not None:
        result.serving_tls.CopyFrom(_tls(config.serving_tls))
    return result


def proxy_config(
    config: MasterConfig, order: pb.Placement, spec: pb.DeploymentSpec, name: ReplicaName
) -> pb.ProxyConfig:
    """The one argument of the proxy actor. It speaks to replicas with what they present themselves."""
    result = pb.ProxyConfig(
        **_common(config, order, spec, name),
        hold_s=spec.proxy.hold_s,
        max_message_bytes=spec.proxy.max_message_bytes,
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


def prepare_command(config: MasterConfig, artifact: pb.Artifact) -> list[str]:
    """Run by the replica's process on its node: fetches the artifact and composes the backend directory."""
    command = [config.python, "-m", "serving.deployment.prepare"]
    command += ["--uri", artifact.uri, "--digest", artifact.digest, "--size", str(artifact.size_bytes)]
    return [*command, "--cache-dir", config.cache_dir]


def _tls(tls: TlsConfig) -> pb.TlsFiles:
    return pb.TlsFiles(ca=tls.ca_file, cert=tls.cert_file, key=tls.key_file)
