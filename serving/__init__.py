"""An online serving mesh on Ray. The names of `serving.sdk` stand here too, imported when they are first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serving.sdk import (
        BF16,
        Application,
        Artifact,
        AsyncMeshClient,
        Autoscaling,
        BatchDeployment,
        BrokerCallbacks,
        BrokerDeployment,
        Callback,
        Canary,
        CanaryChecks,
        CanaryStep,
        Connection,
        CppDeployment,
        EmbeddingDeployment,
        Forecast,
        LlmDeployment,
        Match,
        MeshClient,
        Placement,
        ProxyDeployment,
        PythonDeployment,
        RateLimiter,
        RateLimiterResource,
        RedisJournals,
        Replicas,
        Resources,
        ResponseCache,
        Rollout,
        RuntimeEnv,
        ScalingFunction,
        ScalingLoad,
        Schedule,
        Scheduling,
        SemanticCacheDeployment,
        ServeDeployment,
        Shadow,
        SlowReplicas,
        TrafficSplit,
        TritonDeployment,
        load_spec,
        parse_spec,
        verify_webhook,
    )

__all__ = [
    "BF16",
    "Application",
    "Artifact",
    "AsyncMeshClient",
    "Autoscaling",
    "BatchDeployment",
    "BrokerCallbacks",
    "BrokerDeployment",
    "Callback",
    "Canary",
    "CanaryChecks",
    "CanaryStep",
    "Connection",
    "CppDeployment",
    "EmbeddingDeployment",
    "Forecast",
    "LlmDeployment",
    "Match",
    "MeshClient",
    "Placement",
    "ProxyDeployment",
    "PythonDeployment",
    "RateLimiter",
    "RateLimiterResource",
    "RedisJournals",
    "Replicas",
    "Resources",
    "ResponseCache",
    "Rollout",
    "RuntimeEnv",
    "ScalingFunction",
    "ScalingLoad",
    "Schedule",
    "Scheduling",
    "SemanticCacheDeployment",
    "ServeDeployment",
    "Shadow",
    "SlowReplicas",
    "TrafficSplit",
    "TritonDeployment",
    "load_spec",
    "parse_spec",
    "verify_webhook",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("serving.sdk"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
