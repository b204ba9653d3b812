"""What users write in Python: an `Application` and its parts. Frozen; checked by `Application.to_spec()`.

The YAML file has the same fields; `TABLE` below is the one description of both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from serving._proto import records_pb2 as pb
from serving.problems import problems_error
from serving.routing import RoutingPolicy
from serving.sdk._artifacts import Artifact, local_path
from serving.sdk._batch_options import BATCH, batch_record
from serving.sdk._broker_options import BROKER, BrokerCallbacks, RedisJournals, broker_record
from serving.sdk._cpp_options import CPP, cpp_record
from serving.sdk._deployments import (
    KINDS_OF,
    Deployment,
    folders_of,
)
from serving.sdk._embedding_options import EMBEDDING, embedding_record
from serving.sdk._llm_options import LLM, llm_record
from serving.sdk._proxy_options import PROXY, plain_policy, proxy_record
from serving.sdk._python_options import PYTHON, RuntimeEnv, python_record
from serving.sdk._resource_options import (
    REPLICAS,
    RESOURCES,
    Replicas,
    Resources,
    replicas_record,
    resources_record,
)
from serving.sdk._rollout_options import ROLLOUT, Rollout, rollout_record
from serving.sdk._scaling_options import (
    AUTOSCALING,
    Autoscaling,
    Forecast,
    ScalingFunction,
    Schedule,
    autoscaling_record,
)
from serving.sdk._scheduling_options import SCHEDULING, SLOW, Scheduling, SlowReplicas, scheduling_record, slow_record
from serving.sdk._semantic_cache_options import SEMANTIC_CACHE, semantic_cache_record
from serving.sdk._serve_options import SERVE, serve_record
from serving.sdk._table import (
    SECONDS,
    Either,
    Field,
    ListOf,
    MapOf,
    Reading,
    Record,
    Text,
    Whole,
    Word,
)
from serving.sdk._traffic_options import (
    TRAFFIC,
    Canary,
    CanaryChecks,
    CanaryStep,
    Match,
    Shadow,
    TrafficSplit,
    traffic_record,
)
from serving.sdk._triton_options import TRITON, RateLimiter, RateLimiterResource, ResponseCache, triton_record
from serving.types import DEFAULT_NAMESPACE, DISPATCH_PUSH, DISPATCHES
from serving.validation import FAILED_ROLLOUTS, validate_spec


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
class Application:
    """An application: its deployments and where it may run.

    `on_failed_rollout`: `"rollback"` goes back to the revision that serves when a new one fails again and again,
    `"stop"` leaves the new one where it is. `traffic` says how requests are shared among deployments that offer the
    same model; without it by load.
    """

    name: str
    deployments: tuple[Deployment, ...] | list[Deployment]
    namespace: str = DEFAULT_NAMESPACE
    labels: Mapping[str, str] = field(default_factory=dict)
    placement: Placement = field(default_factory=Placement)
    on_failed_rollout: str = "stop"
    traffic: tuple[TrafficSplit, ...] = ()

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
        found = [folder for deployment in self.deployments for _, folder in folders_of(deployment)]
        return tuple(dict.fromkeys(local_path(folder) for folder in found))


# ------------------------------------------------------------------------------------------------ the one description

_DEPLOYMENT: Final = Record(
    "a deployment",
    (
        Field("name", Text(), "Unique in the application.", required=True),
        Field("triton", TRITON, "Runs a model repository in an embedded Triton."),
        Field("python", PYTHON, "Runs a class of yours."),
        Field("cpp", CPP, "Runs a class of yours in C++."),
        Field("llm", LLM, "Runs a language model behind OpenAI's protocol."),
        Field("embedding", EMBEDDING, "Runs a model that makes vectors of texts."),
        Field("semantic_cache", SEMANTIC_CACHE, "Keeps answers of language models."),
        Field("broker", BROKER, "Keeps requests until replicas ask for them."),
        Field("batch", BATCH, "Works on batches of requests."),
        Field("serve", SERVE, "Runs an application of Ray Serve."),
        Field("proxy", PROXY, "Runs proxies in front of the other deployments."),
        Field("resources", RESOURCES, "What one replica needs.", default=RESOURCES.defaults()),
        Field("replicas", Either(REPLICAS, Whole()), "How many replicas: 2 or {min: 2, max: 2}.", default=1),
        Field("env", MapOf(Word()), "Environment variables of the replicas.", default={}),
        Field("max_restarts", Whole(), "Restarts by Ray in place; -1 is without end.", default=-1),
        Field("start_timeout", SECONDS, "A replica that is not ready by then has failed: 120s.", default=120.0),
        Field("drain_timeout", SECONDS, "Running requests get this long when a replica stops: 30s.", default=30.0),
        Field("rollout", ROLLOUT, "How replicas are replaced by those of a new revision.", default=ROLLOUT.defaults()),
        Field("autoscaling", AUTOSCALING, "How many replicas run between min and max; without it min."),
        Field("scheduling", SCHEDULING, "On which nodes of its cluster it runs.", default=SCHEDULING.defaults()),
        Field(
            "dispatch",
            Text(allowed=DISPATCHES),
            "pull brings requests that proxies and gateways get through its broker; push to a replica at once.",
            default=DISPATCH_PUSH,
        ),
        Field("replace_slow", SLOW, "Replicas much slower than the others are replaced.", default=SLOW.defaults()),
    ),
    one_of=("triton", "python", "cpp", "llm", "embedding", "semantic_cache", "broker", "batch", "serve", "proxy"),
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
        Field("traffic", ListOf(TRAFFIC), "How requests are shared among deployments of the same model.", default=()),
    ),
)


# ------------------------------------------------------------------------------------------------ objects → values


_RECORDS: Final = (
    *(Application, Resources, Replicas, Placement, Artifact, BrokerCallbacks, RedisJournals),
    *(
        ResponseCache,
        RateLimiter,
        RateLimiterResource,
        RuntimeEnv,
        Rollout,
        Autoscaling,
        Schedule,
        Forecast,
        ScalingFunction,
    ),
    *(Canary, CanaryStep, CanaryChecks, TrafficSplit, Match, Shadow, Scheduling, SlowReplicas),
)
_TABLES: Final = {
    "triton": TRITON,
    "python": PYTHON,
    "cpp": CPP,
    "llm": LLM,
    "embedding": EMBEDDING,
    "semantic_cache": SEMANTIC_CACHE,
    "broker": BROKER,
    "batch": BATCH,
    "serve": SERVE,
    "proxy": PROXY,
}


def _plain(value: Any) -> Any:
    """An SDK object as the nested value that its YAML would hold; wrong types stay, for the table to name."""
    if isinstance(value, Deployment):
        kind = KINDS_OF[type(value)]
        shared = [name for name in _DEPLOYMENT.names if name not in _DEPLOYMENT.one_of]
        return {name: _plain(getattr(value, name)) for name in shared} | {
            kind: {name: _plain(getattr(value, name)) for name in _TABLES[kind].names}
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
        traffic=[traffic_record(entry) for entry in values["traffic"]],
    )


def _deployment(values: Mapping[str, Any], artifacts: Mapping[Path, Artifact]) -> pb.DeploymentSpec:
    triton, python, cpp, llm, embedding, semantic_cache, broker, batch, serve, proxy = (
        values[kind] for kind in _TABLES
    )
    return pb.DeploymentSpec(
        name=values["name"],
        resources=resources_record(values["resources"]),
        replicas=replicas_record(values["replicas"]),
        env=values["env"],
        max_restarts=values["max_restarts"],
        start_timeout_s=values["start_timeout"],
        drain_timeout_s=values["drain_timeout"],
        rollout=rollout_record(values["rollout"]),
        autoscaling=autoscaling_record(values["autoscaling"], artifacts),
        scheduling=scheduling_record(values["scheduling"]),
        replace_slow=slow_record(values["replace_slow"]),
        dispatch="" if values["dispatch"] == DISPATCH_PUSH else values["dispatch"],
        triton=None if triton is None else triton_record(triton, artifacts),
        python=None if python is None else python_record(python, artifacts),
        cpp=None if cpp is None else cpp_record(cpp, artifacts),
        llm=None if llm is None else llm_record(llm, artifacts),
        embedding=None if embedding is None else embedding_record(embedding, artifacts),
        semantic_cache=None if semantic_cache is None else semantic_cache_record(semantic_cache),
        broker=None if broker is None else broker_record(broker),
        batch=None if batch is None else batch_record(batch),
        serve=None if serve is None else serve_record(serve, artifacts),
        proxy=None if proxy is None else proxy_record(proxy),
    )
