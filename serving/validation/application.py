"""What makes an `ApplicationSpec` valid. Pure: the SDK asks before it sends, the keeper before it stores.

Field paths use the words of the YAML file (`deployments[0].resources.memory`), so that the loader can add lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from serving._proto import records_pb2 as pb
from serving.broker.pulled import queued_deployments
from serving.hub_name import is_hub_name
from serving.problems import (
    MAX_TIMEOUT_S,
    Problem,
    check_count,
    check_duplicates,
    check_labels,
    check_name,
    check_names,
    check_number,
    check_whole,
    is_clean,
    problems_error,
    shown,
)
from serving.types import is_name
from serving.validation.batch import batch_problems
from serving.validation.broker import broker_problems, dispatch_problems, pulled_problems
from serving.validation.cpp import busy_poll_problems, cpp_problems
from serving.validation.embedding import embedding_problems
from serving.validation.llm import llm_problems, openai_model_problems
from serving.validation.proxy import may_hold_for_none, message_problems, proxy_problems, reach_problems
from serving.validation.python import function_problems, python_problems
from serving.validation.resources import MAX_MEMORY_BYTES, check_resources
from serving.validation.scaling import check_bundles, check_replicas, check_rollout, check_scheduling, check_slow
from serving.validation.semantic_cache import before_problems, semantic_cache_problems
from serving.validation.serve import serve_problems
from serving.validation.traffic import canary_problems, traffic_problems

KINDS: Final = ("triton", "python", "cpp", "llm", "embedding", "semantic_cache", "broker", "batch", "serve", "proxy")
MODEL_CONTROLS: Final = ("none", "explicit")
CACHE_TYPES: Final = ("local",)
RATE_LIMITER_MODES: Final = ("execution_count",)
UPDATES: Final = ("replace", "in_place")
FAILED_ROLLOUTS: Final = ("stop", "rollback")

MAX_SPEC_BYTES: Final = 512 * 1024  # etcd refuses values beyond 1.5 MB, and a placement carries the spec once more
MAX_DEPLOYMENTS: Final = 64
MAX_DEPLOYMENT_NAME: Final = 40  # leaves room for `-r<revision>-<index>` in the 63 letters of a replica's id
MAX_EVENT_LOOPS: Final = 256
MIN_CACHE_BYTES: Final = 1024  # Triton's local cache cannot keep its own books in less
MAX_RESOURCE_COUNT: Final = (1 << 31) - 1
MAX_DEVICE: Final = 1023
MAX_LOG_VERBOSITY: Final = 10
MAX_REQUESTS: Final = 1_000_000
MAX_RESTARTS: Final = 1_000_000

_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_URI: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")
_ENV_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MODEL_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,254}")
_BACKEND_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,62}")


def validate_spec(spec: pb.ApplicationSpec, *, packed: bool = True) -> None:
    """Raises `SpecError` that lists every problem of `spec`; returns when there is none.

    `packed` False leaves out what is true only after local folders became artifacts (their digests).
    """
    problems = spec_problems(spec, packed=packed)
    if problems:
        raise problems_error(problems)


def spec_problems(spec: pb.ApplicationSpec, *, packed: bool = True) -> tuple[Problem, ...]:
    """Every problem of `spec`, in the order of its fields; empty for a valid one."""
    return tuple(_application(spec, packed))


def _application(spec: pb.ApplicationSpec, packed: bool) -> Iterator[Problem]:
    yield from check_name("name", spec.name)
    yield from check_name("namespace", spec.namespace)
    yield from check_labels("labels", spec.labels)
    yield from _placement(spec)
    if not spec.deployments:
        yield Problem("deployments", "an application needs at least one deployment")
    yield from reach_problems(spec)
    if len(spec.deployments) > MAX_DEPLOYMENTS:
        yield Problem("deployments", f"has {len(spec.deployments)} deployments, at most {MAX_DEPLOYMENTS} are allowed")
    proxied, queued = may_hold_for_none(spec), queued_deployments(spec)
    seen: dict[str, int] = {}
    for index, deployment in enumerate(spec.deployments):
        path = f"deployments[{index}]"
        if deployment.name in seen:
            first = seen[deployment.name]
            yield Problem(f"{path}.name", f"`{deployment.name}` is the name of deployments[{first}] already")
        seen.setdefault(deployment.name, index)
        yield from _deployment(path, deployment, packed)
        yield from check_replicas(path, deployment, proxied=proxied, queued=deployment.name in queued)
    if spec.on_failed_rollout and spec.on_failed_rollout not in FAILED_ROLLOUTS:
        yield Problem("on_failed_rollout", f"{shown(spec.on_failed_rollout)} is not known", allowed=FAILED_ROLLOUTS)
    yield from openai_model_problems(spec)
    yield from before_problems(spec)
    yield from pulled_problems(spec)
    yield from dispatch_problems(spec)
    yield from traffic_problems(spec)
    if spec.ByteSize() > MAX_SPEC_BYTES:
        yield Problem("name", f"the whole spec has {spec.ByteSize()} bytes, at most {MAX_SPEC_BYTES} are allowed")


def _placement(spec: pb.ApplicationSpec) -> Iterator[Problem]:
    placement = spec.placement
    yield from check_names("placement.clusters", placement.clusters)
    yield from check_labels("placement.required_labels", placement.required_labels)
    yield from check_labels("placement.preferred_labels", placement.preferred_labels)
    for field, names in (("spread_from", placement.spread_from), ("near", placement.near)):
        yield from check_names(f"placement.{field}", names)
        if spec.name and spec.name in names:
            yield Problem(f"placement.{field}", f"names the application itself (`{spec.name}`)")
    both = sorted(set(placement.spread_from) & set(placement.near))
    if both:
        yield Problem("placement.near", f"`{both[0]}` stands in spread_from too; it cannot be both near and apart")


def _deployment(path: str, deployment: pb.DeploymentSpec, packed: bool) -> Iterator[Problem]:
    yield from check_name(f"{path}.name", deployment.name)
    if len(deployment.name) > MAX_DEPLOYMENT_NAME and is_name(deployment.name):
        yield Problem(f"{path}.name", f"has {len(deployment.name)} letters, at most {MAX_DEPLOYMENT_NAME} are allowed")
    kind = deployment.WhichOneof("kind")
    if kind is None:
        yield Problem(path, "does not say what it runs", allowed=KINDS)
    elif kind not in KINDS:
        yield Problem(f"{path}.{kind}", f"the kind `{kind}` is not supported by this version", allowed=KINDS)
    elif kind == "proxy":
        yield from proxy_problems(f"{path}.proxy", deployment.proxy)
    elif kind == "python":
        yield from python_problems(f"{path}.python", deployment.python)
        if deployment.python.HasField("code"):
            yield from _artifact(f"{path}.python.code", deployment.python.code, packed)
    elif kind == "llm":
        yield from llm_problems(path, deployment)
        if not is_hub_name(deployment.llm.weights.uri):  # else `llm_problems` has looked at it
            yield from _artifact(f"{path}.llm.weights", deployment.llm.weights, packed, "the folder of a model")
    elif kind == "embedding":
        yield from embedding_problems(path, deployment)
        if deployment.embedding.HasField("weights"):
            wanted = "the folder of a BERT encoder"
            yield from _artifact(f"{path}.embedding.weights", deployment.embedding.weights, packed, wanted)
    elif kind == "semantic_cache":
        yield from semantic_cache_problems(path, deployment)
    elif kind == "broker":
        yield from broker_problems(path, deployment)
    elif kind == "batch":
        yield from batch_problems(path, deployment)
    elif kind == "serve":
        yield from serve_problems(path, deployment)
        if deployment.serve.HasField("code"):
            yield from _artifact(f"{path}.serve.code", deployment.serve.code, packed)
    elif kind == "cpp":
        yield from cpp_problems(f"{path}.cpp", deployment.cpp)
        for field in ("code", "repository"):
            if deployment.cpp.HasField(field):
                yield from _artifact(f"{path}.cpp.{field}", getattr(deployment.cpp, field), packed)
    else:
        yield from _triton(f"{path}.triton", deployment.triton, packed)
        yield from _response_cache(f"{path}.triton", deployment)
        yield from _rate_limiter(f"{path}.triton.rate_limiter", deployment.triton.rate_limiter)
    yield from check_resources(f"{path}.resources", deployment.resources)
    if deployment.autoscaling.HasField("policy"):
        policy = deployment.autoscaling.policy
        yield from function_problems(f"{path}.autoscaling.policy", policy)
        if policy.HasField("code"):
            yield from _artifact(f"{path}.autoscaling.policy.code", policy.code, packed)
    yield from _env(f"{path}.env", deployment.env)
    yield from check_whole(f"{path}.max_restarts", deployment.max_restarts, -1, MAX_RESTARTS, "; -1 is without end")
    yield from check_number(f"{path}.start_timeout", deployment.start_timeout_s, MAX_TIMEOUT_S, "seconds")
    yield from check_number(f"{path}.drain_timeout", deployment.drain_timeout_s, MAX_TIMEOUT_S, "seconds")
    yield from check_scheduling(f"{path}.scheduling", deployment.scheduling)
    yield from check_bundles(path, deployment)
    yield from check_slow(f"{path}.replace_slow", deployment.replace_slow)
    if deployment.HasField("rollout"):
        yield from check_rollout(f"{path}.rollout", deployment.rollout)
        if deployment.rollout.HasField("canary"):
            yield from canary_problems(f"{path}.rollout.canary", deployment)


def _triton(path: str, triton: pb.TritonDeployment, packed: bool) -> Iterator[Problem]:
    yield from _artifact(f"{path}.repository", triton.repository, packed)
    yield from _models(f"{path}.models", triton.models)
    yield from check_count(f"{path}.backends", len(triton.backends))
    for name in sorted(triton.backends):
        if not _BACKEND_NAME.fullmatch(name):
            yield Problem(f"{path}.backends", f"{shown(name)} is not a name of a backend")
            continue
        settings = triton.backends[name].settings
        yield from check_count(f"{path}.backends.{name}", len(settings))
        for key in sorted(settings):
            if not key or not is_clean(key) or not is_clean(settings[key]):
                yield Problem(f"{path}.backends.{name}", f"the setting {shown(key)} is empty or has control characters")
    yield from check_whole(f"{path}.event_loops", triton.event_loops, 0, MAX_EVENT_LOOPS, "; 0 lets the replica choose")
    yield from message_problems(path, triton.max_message_bytes)
    yield from check_whole(f"{path}.max_requests", triton.max_requests, 0, MAX_REQUESTS, "; 0 is the default of 10000")
    yield from busy_poll_problems(path, triton.busy_poll_us)
    yield from check_whole(f"{path}.log_verbosity", triton.log_verbosity, 0, MAX_LOG_VERBOSITY)
    if triton.model_control and triton.model_control not in MODEL_CONTROLS:
        allowed = ", ".join(MODEL_CONTROLS)
        yield Problem(f"{path}.model_control", f"{shown(triton.model_control)} is not known; allowed are {allowed}")
    if triton.update and triton.update not in UPDATES:
        yield Problem(f"{path}.update", f"{shown(triton.update)} is not known; allowed are {', '.join(UPDATES)}")


def _response_cache(path: str, deployment: pb.DeploymentSpec) -> Iterator[Problem]:
    triton, memory = deployment.triton, deployment.resources.memory_bytes
    if not triton.HasField("response_cache"):
        return
    cache = triton.response_cache
    if cache.type == "redis":
        yield Problem(
            f"{path}.response_cache.type",
            "`redis` is not supported: each replica keeps answers in its own memory",
            allowed=CACHE_TYPES,
        )
    elif cache.type not in CACHE_TYPES:
        yield Problem(f"{path}.response_cache.type", f"{shown(cache.type)} is not known", allowed=CACHE_TYPES)
    yield from check_whole(f"{path}.response_cache.size", cache.size_bytes, MIN_CACHE_BYTES, MAX_MEMORY_BYTES, " bytes")
    if 0 < memory <= cache.size_bytes:
        yield Problem(
            f"{path}.response_cache.size",
            f"{cache.size_bytes} bytes leave nothing of resources.memory ({memory} bytes) for the models",
        )
    if triton.update == "in_place":
        yield Problem(
            f"{path}.response_cache",
            "cannot be combined with `update: in_place`: Triton keeps answers by the model's name and version, so "
            "those of the models before would be given for the new ones; use `update: replace`",
        )


def _rate_limiter(path: str, limiter: pb.RateLimiter) -> Iterator[Problem]:
    if limiter.mode and limiter.mode not in RATE_LIMITER_MODES:
        yield Problem(f"{path}.mode", f"{shown(limiter.mode)} is not known", allowed=RATE_LIMITER_MODES)
    yield from check_count(f"{path}.resources", len(limiter.resources))
    seen = set()
    for index, resource in enumerate(limiter.resources):
        place = f"{path}.resources[{index}]"
        if not resource.name or ":" in resource.name or not is_clean(resource.name):
            yield Problem(f"{place}.name", f"{shown(resource.name)} is not a name of a resource")
        yield from check_whole(f"{place}.count", resource.count, 1, MAX_RESOURCE_COUNT)
        if resource.HasField("device"):
            yield from check_whole(f"{place}.device", resource.device, 0, MAX_DEVICE)
        key = (resource.name, resource.device if resource.HasField("device") else None)
        if key in seen:
            yield Problem(place, f"{shown(resource.name)} stands there twice for the same devices")
        seen.add(key)


def _artifact(
    path: str, artifact: pb.Artifact, packed: bool, wanted: str = "a folder in Triton's repository layout"
) -> Iterator[Problem]:
    if not artifact.uri:
        yield Problem(path, f"is missing: {wanted}, or an artifact's url with its digest")
        return
    if not packed and not artifact.digest:
        return
    if not _URI.fullmatch(artifact.uri):
        yield Problem(path, f"{shown(artifact.uri)} is not a url such as `file:///mesh/artifacts/models.tar`")
    if not artifact.digest:
        yield Problem(f"{path}.digest", "is missing: a revision must say exactly which files it runs")
    elif not _DIGEST.fullmatch(artifact.digest):
        yield Problem(f"{path}.digest", f"{shown(artifact.digest)} is not `sha256:` and 64 hexadecimal digits")
    if artifact.size_bytes < 0:
        yield Problem(f"{path}.size_bytes", f"{artifact.size_bytes} is negative")


def _models(path: str, models: Iterable[str]) -> Iterator[Problem]:
    names = list(models)
    yield from check_count(path, len(names))
    for index, name in enumerate(names):
        if not _MODEL_NAME.fullmatch(name):
            yield Problem(f"{path}[{index}]", f"{shown(name)} is not a name of a model (letters, digits, `_ . + -`)")
    yield from check_duplicates(path, names)


def _env(path: str, env: Mapping[str, str]) -> Iterator[Problem]:
    yield from check_count(path, len(env))
    for name in sorted(env):
        if not _ENV_NAME.fullmatch(name):
            yield Problem(path, f"{shown(name)} is not a name of an environment variable")
        elif "\0" in env[name]:
            yield Problem(f"{path}.{name}", "holds a NUL character")
