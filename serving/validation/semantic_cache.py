"""What makes the `semantic_cache` part of a spec valid, and what of the mesh's own it cannot be combined with. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Final

from serving._proto import records_pb2 as pb
from serving.cache.guards import GUARDS
from serving.problems import MAX_TIMEOUT_S, Problem, check_duplicates, check_number, check_whole, shown

EVICTIONS: Final = ("lru", "lfu")
MAX_ENTRIES: Final = 10_000_000
MAX_BYTES: Final = 1 << 40
MAX_ANSWER_BYTES: Final = 16 << 20
MAX_TEMPERATURE: Final = 2.0
MAX_THREADS: Final = 256


def semantic_cache_problems(path: str, deployment: pb.DeploymentSpec) -> Iterator[Problem]:
    """`path` is the deployment's."""
    cache = deployment.semantic_cache
    at = f"{path}.semantic_cache"
    if cache.HasField("threshold") and not 0 < cache.threshold <= 1:
        yield Problem(f"{at}.threshold", f"{cache.threshold:g} is not above 0, and at most 1 (equal texts only)")
    if not 0 <= cache.error_bound < 1:
        yield Problem(f"{at}.error_bound", f"{cache.error_bound:g} is not between 0 (not learned) and 1")
    yield from check_number(f"{at}.ttl", cache.ttl_s, MAX_TIMEOUT_S * 365, "seconds")
    yield from check_whole(f"{at}.max_entries", cache.max_entries, 0, MAX_ENTRIES, "; 0 is the default of 100000")
    yield from check_whole(f"{at}.max_bytes", cache.max_bytes, 0, MAX_BYTES, "; 0 is the default of 2 GiB")
    answer = cache.max_answer_bytes
    yield from check_whole(f"{at}.max_answer_bytes", answer, 0, MAX_ANSWER_BYTES, "; 0 is the default of 1 MiB")
    if cache.evict and cache.evict not in EVICTIONS:
        yield Problem(f"{at}.evict", f"{shown(cache.evict)} is not known", allowed=EVICTIONS)
    if cache.HasField("max_temperature") and not 0 <= cache.max_temperature <= MAX_TEMPERATURE:
        yield Problem(f"{at}.max_temperature", f"{cache.max_temperature:g} is not between 0 and {MAX_TEMPERATURE:g}")
    for index, name in enumerate(cache.without_guards):
        if name not in GUARDS:
            yield Problem(f"{at}.without_guards[{index}]", f"{shown(name)} is not known", allowed=tuple(GUARDS))
    if cache.path and (not PurePosixPath(cache.path).is_absolute() or "\0" in cache.path):
        yield Problem(f"{at}.path", f"{shown(cache.path)} is not the absolute path of a folder")
    yield from check_whole(f"{at}.threads", cache.threads, 0, MAX_THREADS, "; 0 is 1")
    yield from check_duplicates(f"{at}.before", list(cache.before))
    yield from _not_with_cache(path, deployment)


def _not_with_cache(path: str, deployment: pb.DeploymentSpec) -> Iterator[Problem]:
    if deployment.replicas.min > 1 or deployment.replicas.max > 1:
        text = "of `semantic_cache` is 1: answers of several could not be removed together while one of them is away"
        yield Problem(f"{path}.replicas", text)
    if deployment.HasField("autoscaling"):
        yield Problem(f"{path}.autoscaling", "is not supported with `semantic_cache`, which has one replica")
    if any(deployment.rollout.HasField(name) for name in ("max_surge", "max_unavailable", "canary")):
        text = "is always the same with `semantic_cache`: its one replica leaves, then the next takes over its folder"
        yield Problem(f"{path}.rollout", text)


def before_problems(spec: pb.ApplicationSpec) -> Iterator[Problem]:
    """Every language model has at most one cache, and every cache at least one model."""
    models = {one.name for one in spec.deployments if one.HasField("llm")}
    taken: dict[str, int] = {}
    for index, deployment in enumerate(spec.deployments):
        if not deployment.HasField("semantic_cache"):
            continue
        path = f"deployments[{index}].semantic_cache"
        if not models:
            yield Problem(path, "stands before nothing: the application has no `llm` deployment")
        for place, name in enumerate(deployment.semantic_cache.before):
            if name not in models:
                yield Problem(f"{path}.before[{place}]", f"{shown(name)} is no `llm` deployment of the application")
        for name in sorted(models & set(deployment.semantic_cache.before or models)):
            first = taken.setdefault(name, index)
            if first != index:
                yield Problem(f"{path}.before", f"`{name}` has the cache deployments[{first}] already")
