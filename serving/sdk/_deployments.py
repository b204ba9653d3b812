"""The kinds of deployments that users write in Python. Frozen."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from serving.hub_name import is_hub_name
from serving.routing import RoutingPolicy
from serving.sdk._artifacts import Artifact
from serving.sdk._broker_options import BrokerCallbacks, RedisJournals
from serving.sdk._python_options import RuntimeEnv
from serving.sdk._resource_options import Replicas, Resources
from serving.sdk._rollout_options import Rollout
from serving.sdk._scaling_options import Autoscaling
from serving.sdk._scheduling_options import Scheduling, SlowReplicas
from serving.sdk._triton_options import RateLimiter, ResponseCache
from serving.types import DISPATCH_PUSH, PROXY_GRPC


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentOptions:
    """What every kind of deployment has, by keyword.

    `resources` are those of one replica. `env` are its environment variables. Ray restarts it in place `max_restarts`
    times, -1 is without end. One that is not ready within `start_timeout` has failed; running requests get
    `drain_timeout` when one leaves. With `dispatch="pull"` proxies and gateways bring its requests through its broker,
    from which replicas take them as they have room (docs/guides/queue.md). Timeouts are seconds or texts such as
    `"2m"`.
    """

    resources: Resources = field(default_factory=Resources)
    replicas: Replicas | int = field(default_factory=Replicas)
    env: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    max_restarts: int = -1
    start_timeout: float | str = 120.0
    drain_timeout: float | str = 30.0
    rollout: Rollout = field(default_factory=Rollout)
    autoscaling: Autoscaling | None = None
    scheduling: Scheduling = field(default_factory=Scheduling)
    replace_slow: SlowReplicas = field(default_factory=SlowReplicas)
    dispatch: str = DISPATCH_PUSH


@dataclass(frozen=True, slots=True)
class TritonDeployment(DeploymentOptions):
    """Replicas with an embedded Triton.

    `repository` is a local folder in Triton's layout (packed and stored by `deploy`) or an `Artifact`. `models` names
    those to load, empty is all. `backends` has settings by backend. `model_control` is `"explicit"` where clients may
    load and unload models. `update` is `"replace"`, or `"in_place"`, so that running replicas load the models of a new
    revision. `max_requests` bounds what runs and waits in one replica, `response_cache` keeps answers of models that
    ask for it, `rate_limiter` heeds resources and priorities of instance groups. `busy_poll_us` is how long a thread of
    the ingress polls for more before it sleeps. Timeouts are seconds or texts such as `"2m"`.
    """

    name: str
    repository: str | os.PathLike[str] | Artifact
    models: tuple[str, ...] = ()
    backends: Mapping[str, Mapping[str, str | int | float | bool]] = field(default_factory=dict)
    event_loops: int = 0
    max_message_bytes: int | str = 0
    max_requests: int = 0
    busy_poll_us: int = 0
    log_verbosity: int = 0
    model_control: str = "none"
    update: str = "replace"
    response_cache: ResponseCache | None = None
    rate_limiter: RateLimiter | None = None


@dataclass(frozen=True, slots=True)
class PythonDeployment(DeploymentOptions):
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


@dataclass(frozen=True, slots=True)
class CppDeployment(DeploymentOptions):
    """Replicas of a class of yours in C++ (`mesh/deployment.h` says what it looks like).

    `library` is the shared library: a path in `code`, the local folder that holds it (packed and stored by `deploy`) or
    an `Artifact`; without `code` an absolute path where replicas run. `repository` is a folder of models in Triton's
    layout, or an `Artifact`, that it may call in its own process. `args` go to the constructor, `config` to
    `Reconfigure`; a revision that differs in `config` only reaches running replicas in place. Clients ask for `model`,
    by default the deployment's name. `max_requests` bounds what runs and waits in one replica, `threads` run requests.
    `busy_poll_us` is how long a thread of the ingress polls for more before it sleeps.
    """

    name: str
    library: str
    code: str | os.PathLike[str] | Artifact | None = None
    args: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    repository: str | os.PathLike[str] | Artifact | None = None
    model: str = ""
    max_requests: int = 0
    max_message_bytes: int | str = 0
    threads: int = 0
    busy_poll_us: int = 0


@dataclass(frozen=True, slots=True)
class LlmDeployment(DeploymentOptions):
    """Replicas of a language model, each of which speaks OpenAI's HTTP protocol.

    `weights` is a local folder with one .gguf, or with what the engine reads (packed and stored by `deploy`), an
    `Artifact`, or a name on the Hugging Face hub: `hub://owner/name@commit`, or that of one file of it. Clients ask for
    `model`, by default the deployment's name. `engine` is `"openvino"` or `"vllm"`, `options` are its own.
    `max_requests` and `max_waiting_tokens` bound what runs and waits in one replica; who
    would wait longer than `max_wait` for a first token is refused. `routing` says how gateways send requests to
    replicas: `{"choice": "least_tokens"}`, see docs/guides/llm.md.
    """

    name: str
    weights: str | os.PathLike[str] | Artifact
    model: str = ""
    engine: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    max_requests: int = 0
    max_waiting_tokens: int = 0
    max_wait: float | str = 0.0
    routing: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class EmbeddingDeployment(DeploymentOptions):
    """Replicas of a model that makes vectors of texts, each of which speaks OpenAI's HTTP protocol and KServe v2.

    `weights` is a local folder with a BERT encoder (packed and stored by `deploy`) or an `Artifact`; without it the
    model is all-MiniLM-L6-v2, as an installed package carries it. Clients ask for `model`, by default the deployment's
    name. `precision` is that of the weights, `"int8"` or `"f32"`. `too_long` says what becomes of a text with more than
    `max_tokens`: `"refuse"` or `"cut"`. `max_batch_inputs` and `max_batch_tokens` bound what is computed together,
    `max_requests` and `max_waiting_tokens` what runs and waits in one replica.
    """

    name: str
    weights: str | os.PathLike[str] | Artifact | None = None
    model: str = ""
    precision: str = ""
    max_tokens: int = 0
    too_long: str = ""
    threads: int = 0
    max_batch_inputs: int = 0
    max_batch_tokens: int = 0
    max_requests: int = 0
    max_waiting_tokens: int = 0


@dataclass(frozen=True, slots=True)
class SemanticCacheDeployment(DeploymentOptions):
    """Keeps answers of language models, and gives them again to those who ask the same, in the same or other words.

    `before` names the `llm` deployments of the application in front of which it stands; empty: all. Two texts with at
    least the cosine `threshold` may ask the same; 1 leaves equal texts. `error_bound` is the rate of wrong answers that
    is allowed, learned for each one; 0 does not learn. Answers are kept for `ttl`, at most `max_entries` and
    `max_bytes` of them; what was not used for longest (`evict="lru"`) or least often (`"lfu"`) goes first. They lie in
    `path` on its node, by default in the node's cache. There is one replica.
    """

    name: str
    before: tuple[str, ...] | list[str] = ()
    threshold: float = 0.8
    error_bound: float = 0.0
    ttl: float | str = 0.0
    max_entries: int = 0
    max_bytes: int | str = 0
    max_answer_bytes: int | str = 0
    evict: str = ""
    max_temperature: float = 0.7
    per_user: bool = False
    without_guards: tuple[str, ...] | list[str] = ()
    path: str = ""
    threads: int = 0


@dataclass(frozen=True, slots=True)
class BrokerDeployment(DeploymentOptions):
    """Keeps requests until replicas of the application ask for them, and their results until they are fetched.

    `before` names the `python`, `llm` and `embedding` deployments whose requests it takes; empty: all. A request goes
    back to the queue `lease` after the last word of its replica, at most `max_attempts` times; results are kept for
    `result_ttl`, or as a request asks, up to `max_result_ttl`; dead letters for `dead_ttl` if that is longer. What
    waits and runs is bounded by `max_items`, and of one tenant by `max_tenant_items`; what is kept by `max_bytes`, and
    of one tenant by `max_tenant_bytes`; one request by `max_request_bytes`, one result by `max_result_bytes`. It
    lies in `path` on its node, by default in the node's
    cache; `sync` is `"full"` where an answer means that it is on disk, `"normal"` where a power failure may cost the
    last moments. Waiting items rise by a class each `ageing`; `short_share` and `long_share` of the running places are
    kept for short and long items. A replica holds at most `per_replica`; 0 is as many as keep it busy. `callbacks`
    says where it calls back; without it, to https and public addresses. With `redis`, a Redis server has what else is
    in `path`, and brokers of other nodes can go on with it.
    """

    name: str
    before: tuple[str, ...] | list[str] = ()
    lease: float | str = 0.0
    max_attempts: int = 0
    result_ttl: float | str = 0.0
    max_result_ttl: float | str = 0.0
    dead_ttl: float | str = 0.0
    max_items: int = 0
    max_bytes: int | str = 0
    max_tenant_items: int = 0
    max_tenant_bytes: int | str = 0
    max_request_bytes: int | str = 0
    max_result_bytes: int | str = 0
    path: str = ""
    sync: str = ""
    ageing: float | str = 60.0
    short_share: float = 0.5
    long_share: float = 0.25
    per_replica: int = 0
    callbacks: BrokerCallbacks | None = None
    redis: RedisJournals | None = None


@dataclass(frozen=True, slots=True)
class BatchDeployment(DeploymentOptions):
    """Runners that work on the batches of `/v1/batches`, with Ray Data in their cluster.

    A runner works on up to `concurrency` batches at once, of the tenants `namespaces`; empty: of all. The requests of
    one are sent by `workers` processes. A batch whose job broke `max_attempts` times, one after the other and without
    progress, fails.
    """

    name: str
    concurrency: int = 0
    namespaces: tuple[str, ...] | list[str] = ()
    workers: int = 0
    max_attempts: int = 0


@dataclass(frozen=True, slots=True)
class ServeDeployment(DeploymentOptions):
    """An application of Ray Serve, deployed unchanged in the Serve instance of the Ray cluster.

    `import_path` is `"module:app"`: an application, or a function that builds one from `args`. `code` is the local
    folder that holds the module (packed and stored by `deploy`) or an `Artifact`; without it the module is installed in
    the cluster. `grpc_servicer_functions` are those of its gRPC services. `resources` are those of the process that
    watches it; what it needs itself is said in its code.
    """

    name: str
    import_path: str
    code: str | os.PathLike[str] | Artifact | None = None
    args: Mapping[str, Any] = field(default_factory=dict)
    runtime_env: RuntimeEnv = field(default_factory=RuntimeEnv)
    grpc_servicer_functions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ProxyDeployment(DeploymentOptions):
    """Proxies that send requests to the replicas of the application's other deployments.

    `protocol` is `"grpc"` for KServe v2, or `"http"` for what a gateway answers: OpenAI's API and KServe v2. While no
    replica takes new work, requests are held for `hold`; 0 is 30 s. `max_message_bytes` bounds one message; 0 is
    2 GiB - 1, of HTTP proxies 8 MiB. Of gRPC proxies only, `policy` says how requests are sent, as a `RoutingPolicy` or
    the values of one, and `busy_poll_us` how long the proxy polls for more before it sleeps.
    """

    name: str
    policy: RoutingPolicy | Mapping[str, Any] | None = None
    hold: float | str = 0.0
    max_message_bytes: int | str = 0
    busy_poll_us: int = 0
    protocol: str = PROXY_GRPC


Deployment = (
    TritonDeployment
    | PythonDeployment
    | CppDeployment
    | LlmDeployment
    | EmbeddingDeployment
    | SemanticCacheDeployment
    | BrokerDeployment
    | BatchDeployment
    | ServeDeployment
    | ProxyDeployment
)

KINDS_OF: Final[Mapping[type[Deployment], str]] = {
    TritonDeployment: "triton",
    PythonDeployment: "python",
    CppDeployment: "cpp",
    LlmDeployment: "llm",
    EmbeddingDeployment: "embedding",
    SemanticCacheDeployment: "semantic_cache",
    BrokerDeployment: "broker",
    BatchDeployment: "batch",
    ServeDeployment: "serve",
    ProxyDeployment: "proxy",
}
"""The word of the YAML file for each."""


def folders_of(deployment: Deployment) -> Iterator[tuple[str, str | os.PathLike[str]]]:
    """The local folders that have to be packed for a deployment, with the paths of their fields in it."""
    kind = KINDS_OF[type(deployment)]
    fields = [(f"{kind}.{name}", getattr(deployment, name, None)) for name in ("repository", "code", "weights")]
    if deployment.autoscaling is not None and deployment.autoscaling.policy is not None:
        fields.append(("autoscaling.policy.code", deployment.autoscaling.policy.code))
    for path, folder in fields:
        if folder and not isinstance(folder, Artifact) and not (path == "llm.weights" and is_hub_name(folder)):
            yield path, folder
