"""What users write in Python: an `Application` and its parts. Frozen; checked by `Application.to_spec()`.

The YAML file has the same fields; `TABLE` below is the one description of both.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from serving._proto import records_pb2 as pb
from serving.problems import problems_error
from serving.routing import RoutingPolicy
from serving.sdk._artifacts import Artifact, local_path
from serving.sdk._proxy_options import PROXY, plain_policy, proxy_record
from serving.sdk._python_options import PYTHON, RuntimeEnv, python_record
from serving.sdk._rollout_options import ROLLOUT, Rollout, rollout_record
from serving.sdk._scaling_options import AUTOSCALING, Autoscaling, Schedule, autoscaling_record
from serving.sdk._table import (
    BYTES,
    CORES,
    SECONDS,
    Either,
    Field,
    ListOf,
    MapOf,
    Number,
    Reading,
    Record,
    Text,
    Whole,
    Word,
)
from serving.sdk._triton_options import TRITON, RateLimiter, RateLimiterResource, ResponseCache, triton_record
from serving.types import DEFAULT_NAMESPACE
from serving.validation import FAILED_ROLLOUTS, validate_spec


@dataclass(frozen=True, slots=True)
class Resources:
    """What one replica needs.

    `cpus`: cores, a number or `"500m"`. `gpus`: devices, shares below 1 allowed. `accelerator_type`: as Ray names it
    (`"H200"`), empty is any. `memory`: bytes, a number or `"512Mi"`; 0 is not requested. `custom`: amounts by name.
    """

    cpus: float | str = 1.0
    gpus: float = 0.0
    accelerator_type: str = ""
    memory: int | str = 0
    custom: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Replicas:
    """How many replicas run: `min` to `max`, as `Autoscaling` says; without `max` exactly `min`."""

    min: int = 1
    max: int | None = None


@dataclass(frozen=True, slots=True)
class Placement:
    """Where an application may and should run.

    `clusters`: names of allowed ones, empty is any. `required_labels`: the cluster must carry all. `preferred_labels`:
    the more of them the better. `spread_from` and `near`: applications of the namespace not to share, or to share, a
    cluster with.
    """

    clusters: tuple[str, ...] = ()
    required_labels: Mapping[str, str] = field(default_factory=dict)
    preferred_labels: Mapping[str, str] = field(default_factory=dict)
    spread_from: tuple[str, ...] = ()
    near: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TritonDeployment:
    """Replicas with an embedded Triton.

    `repository` is a local folder in Triton's layout (packed and stored by `deploy`) or an `Artifact`. `models` names
    those to load, empty is all. `backends` has settings by backend. `model_control` is `"explicit"` where clients may
    load and unload models. `update` is `"replace"`, or `"in_place"`, so that running replicas load the models of a new
    revision. `max_requests` bounds what runs and waits in one replica, `response_cache` keeps answers of models that
    ask for it, `rate_limiter` heeds resources and priorities of instance groups. Timeouts are seconds or texts such as
    `"2m"`.
    """

    name: str
    repository: str | os.PathLike[str] | Artifact
    models: tuple[str, ...] = ()
    backends: Mapping[str, Mapping[str, str | int | float | bool]] = field(default_factory=dict)
    event_loops: int = 0
    max_message_bytes: int | str = 0
    max_requests: int = 0
    log_verbosity: int = 0
    model_control: str = "none"
    update: str = "replace"
    response_cache: ResponseCache | None = None
    rate_limiter: RateLimiter | None = None
    resources: Resources = field(default_factory=Resources)
    replicas: Replicas | int = field(default_factory=Replicas)
    env: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    max_restarts: int = -1
    start_timeout: float | str = 120.0
    drain_timeout: float | str = 30.0
    rollout: Rollout = field(default_factory=Rollout)
    autoscaling: Autoscaling | None = None


@dataclass(frozen=True, slots=True)
class PythonDeployment:
    """Replicas of a class of yours (`serving.python_deployment` says what it looks like).

    `entry` is `"module:Class"`. `code` is the local folder that holds the module (packed and stored by `deploy`) or an
    `Artifact`; without it the module is installed where replicas run. `args` go to the constructor, `config` to
    `reconfigure`; a revision that differs in `config` only reaches running replicas in place. Clients ask for `model`,
    by default the deployment's name. `max_requests` bounds what runs and waits in one replica, `threads` run methods
    that are not `async`.
    """

    name: str
    entry: str
    code: str | os.PathLike[str] | Artifact | None = None
    args: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    model: str = ""
    max_requests: int = 0
    max_message_bytes: int | str = 0
    threads: int = 0
    runtime_env: RuntimeEnv = field(default_factory=RuntimeEnv)
    resources: Resources = field(default_factory=Resources)
    replicas: Replicas | int = field(default_factory=Replicas)
    env: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    max_restarts: int = -1
    start_timeout: float | str = 120.0
    drain_timeout: float | str = 30.0
    rollout: Rollout = field(default_factory=Rollout)
    autoscaling: Autoscaling | None = None


@dataclass(frozen=True, slots=True)
class ProxyDeployment:
    """gRPC proxies that send requests to the replicas of the application's other deployments.

    `policy` says how, as a `RoutingPolicy` or the values of one. While no replica takes new work, requests are held
    for `hold`; 0 is 30 s. `max_message_bytes` bounds one message; 0 is 2 GiB - 1.
    """

    name: str
    policy: RoutingPolicy | Mapping[str, Any] | None = None
    hold: float | str = 0.0
    max_message_bytes: int | str = 0
    resources: Resources = field(default_factory=Resources)
    replicas: Replicas | int = field(default_factory=Replicas)
    env: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    max_restarts: int = -1
    start_timeout: float | str = 120.0
    drain_timeout: float | str = 30.0
    rollout: Rollout = field(default_factory=Rollout)
    autoscaling: Autoscaling | None = None


Deployment = TritonDeployment | PythonDeployment | ProxyDeployment


@dataclass(frozen=True, slots=True)
class Application:
    """An application: its deployments and where it may run.

    `on_failed_rollout`: `"rollback"` goes back to the revision that serves when a new one fails again and again,
    `"stop"` leaves the new one where it is.
    """

    name: str
    deployments: tuple[Deployment, ...] | list[Deployment]
    namespace: str = DEFAULT_NAMESPACE
    labels: Mapping[str, str] = field(default_factory=dict)
    placement: Placement = field(default_factory=Placement)
    on_failed_rollout: str = "stop"

    def to_spec(self, artifacts: Mapping[Path, Artifact] | None = None) -> pb.ApplicationSpec:
        """The spec as the keeper takes it.

        `artifacts` says what became of the local folders (absolute paths, see `local_folders`); a folder that is not
        in it stands in the spec as a `file://` url without a digest. Raises `SpecError` that lists everything wrong.
        """
        spec = self.unchecked_spec(artifacts)
        validate_spec(spec, packed=False)
        return spec

    def unchecked_spec(self, artifacts: Mapping[Path, Artifact] | None = None) -> pb.ApplicationSpec:
        """Like `to_spec`, with fields of the right types checked, but not yet names, ranges and duplicates."""
        reading = Reading()
        values = TABLE.read(_plain(self), reading.root())
        if reading.problems:
            raise problems_error(reading.problems)
        return _application(values, artifacts or {})

    def local_folders(self) -> tuple[Path, ...]:
        """Absolute paths of the folders that have to be packed, each once."""
        found = [folder_of(deployment) for deployment in self.deployments]
        return tuple(dict.fromkeys(local_path(folder) for folder in found if folder is not None))


def folder_of(deployment: Deployment) -> str | os.PathLike[str] | None:
    """The local folder that has to be packed for a deployment; None where there is none."""
    if isinstance(deployment, ProxyDeployment):
        return None
    folder = deployment.repository if isinstance(deployment, TritonDeployment) else deployment.code
    return None if isinstance(folder, Artifact) else folder or None


# ------------------------------------------------------------------------------------------------ the one description

_RESOURCES: Final = Record(
    "resources",
    (
        Field("cpus", CORES, "Cores per replica: 2, 0.25 or 500m.", default=1.0),
        Field("gpus", Number(), "GPUs per replica; shares below 1 are allowed.", default=0.0),
        Field("accelerator_type", Text(), "Type of the GPU as Ray names it; empty is any.", default=""),
        Field("memory", BYTES, "Memory per replica: 512Mi, 2Gi or bytes; 0 is not requested.", default=0),
        Field("custom", MapOf(Number()), "Custom resources of the Ray cluster, by name.", default={}),
    ),
)
_REPLICAS: Final = Record(
    "replicas",
    (
        Field("min", Whole(), "Replicas that always run.", default=1),
        Field("max", Whole(), "Upper limit; without autoscaling equal to min."),
    ),
)
_DEPLOYMENT: Final = Record(
    "a deployment",
    (
        Field("name", Text(), "Unique in the application.", required=True),
        Field("triton", TRITON, "Runs a model repository in an embedded Triton."),
        Field("python", PYTHON, "Runs a class of yours."),
        Field("proxy", PROXY, "Runs gRPC proxies in front of the other deployments."),
        Field("resources", _RESOURCES, "What one replica needs.", default=_RESOURCES.defaults()),
        Field("replicas", Either(_REPLICAS, Whole()), "How many replicas: 2 or {min: 2, max: 2}.", default=1),
        Field("env", MapOf(Word()), "Environment variables of the replicas.", default={}),
        Field("max_restarts", Whole(), "Restarts by Ray in place; -1 is without end.", default=-1),
        Field("start_timeout", SECONDS, "A replica that is not ready by then has failed: 120s.", default=120.0),
        Field("drain_timeout", SECONDS, "Running requests get this long when a replica stops: 30s.", default=30.0),
        Field("rollout", ROLLOUT, "How replicas are replaced by those of a new revision.", default=ROLLOUT.defaults()),
        Field("autoscaling", AUTOSCALING, "How many replicas run between min and max; without it min."),
    ),
    one_of=("triton", "python", "proxy"),
)
_PLACEMENT: Final = Record(
    "placement",
    (
        Field("clusters", ListOf(Text()), "Allowed clusters; empty is any.", default=()),
        Field("required_labels", MapOf(Word()), "The cluster must carry all of them.", default={}),
        Field("preferred_labels", MapOf(Word()), "The cluster that carries most of them comes first.", default={}),
        Field("spread_from", ListOf(Text()), "Applications not to share a cluster with.", default=()),
        Field("near", ListOf(Text()), "Applications to share a cluster with.", default=()),
    ),
)
TABLE: Final = Record(
    "an application",
    (
        Field("name", Text(), "The application's name.", required=True),
        Field("namespace", Text(), "The tenant.", default=DEFAULT_NAMESPACE),
        Field("labels", MapOf(Word()), "Free labels.", default={}),
        Field("placement", _PLACEMENT, "Where it may and should run.", default=_PLACEMENT.defaults()),
        Field("deployments", ListOf(_DEPLOYMENT), "The parts of the application.", required=True),
        Field(
            "on_failed_rollout",
            Text(allowed=FAILED_ROLLOUTS),
            "stop leaves a new revision that fails where it is, rollback goes back to the one that serves.",
            default="stop",
        ),
    ),
)


# ------------------------------------------------------------------------------------------------ objects → values


_RECORDS: Final = (
    *(Application, Resources, Replicas, Placement, Artifact),
    *(ResponseCache, RateLimiter, RateLimiterResource, RuntimeEnv, Rollout, Autoscaling, Schedule),
)
_KINDS: Final = {
    TritonDeployment: ("triton", TRITON),
    PythonDeployment: ("python", PYTHON),
    ProxyDeployment: ("proxy", PROXY),
}


def _plain(value: Any) -> Any:
    """An SDK object as the nested value that its YAML would hold; wrong types stay, for the table to name."""
    if isinstance(value, TritonDeployment | PythonDeployment | ProxyDeployment):
        kind, inner = _KINDS[type(value)]
        shared = [name for name in _DEPLOYMENT.names if name not in _DEPLOYMENT.one_of]
        return {name: _plain(getattr(value, name)) for name in shared} | {
            kind: {name: _plain(getattr(value, name)) for name in inner.names}
        }
    if isinstance(value, RoutingPolicy):
        return plain_policy(value)
    if isinstance(value, _RECORDS):
        return {name: _plain(getattr(value, name)) for name in value.__slots__}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


# ------------------------------------------------------------------------------------------------ values → records


def _application(values: Mapping[str, Any], artifacts: Mapping[Path, Artifact]) -> pb.ApplicationSpec:
    return pb.ApplicationSpec(
        namespace=values["namespace"],
        name=values["name"],
        labels=values["labels"],
        placement=pb.PlacementPolicy(**values["placement"]),
        deployments=[_deployment(entry, artifacts) for entry in values["deployments"]],
        on_failed_rollout="" if values["on_failed_rollout"] == "stop" else values["on_failed_rollout"],
    )


def _deployment(values: Mapping[str, Any], artifacts: Mapping[Path, Artifact]) -> pb.DeploymentSpec:
    triton, python, proxy = values["triton"], values["python"], values["proxy"]
    return pb.DeploymentSpec(
        name=values["name"],
        resources=_resources(values["resources"]),
        replicas=_replicas(values["replicas"]),
        env=values["env"],
        max_restarts=values["max_restarts"],
        start_timeout_s=values["start_timeout"],
        drain_timeout_s=values["drain_timeout"],
        rollout=rollout_record(values["rollout"]),
        autoscaling=autoscaling_record(values["autoscaling"]),
        triton=None if triton is None else triton_record(triton, artifacts),
        python=None if python is None else python_record(python, artifacts),
        proxy=None if proxy is None else proxy_record(proxy),
    )


def _resources(values: Mapping[str, Any]) -> pb.Resources:
    return pb.Resources(
        cpus=values["cpus"],
        gpus=values["gpus"],
        accelerator_type=values["accelerator_type"],
        memory_bytes=values["memory"],
        custom=values["custom"],
    )


def _replicas(values: int | Mapping[str, Any]) -> pb.Replicas:
    if isinstance(values, int):
        return pb.Replicas(min=values, max=values)
    low, high = values["min"], values["max"]
    return pb.Replicas(min=low, max=low if high is None else high)
