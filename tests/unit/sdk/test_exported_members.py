"""The public names: each exported once, documented, and imported only when it is used."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys

import pytest

import serving
import serving.sdk
from serving.sdk import AsyncMeshClient, MeshClient

PUBLIC = {
    "BrokerDrain",
    "RedisJournals",
    "QueueFull",
    "QueueItem",
    "QueueStatistics",
    "Ticket",
    "TicketPart",
    "Application",
    "ApiKey",
    "AppEvent",
    "AppStatus",
    "Artifact",
    "AsyncMeshClient",
    "Autoscaling",
    "BrokerCallbacks",
    "BatchDeployment",
    "BrokerDeployment",
    "Callback",
    "CallbackStatus",
    "verify_webhook",
    "BF16",
    "Canary",
    "CanaryChecks",
    "CanaryStep",
    "ClientConfig",
    "ClientStats",
    "ClusterConfig",
    "Connection",
    "CppDeployment",
    "CreatedKey",
    "DeployResult",
    "EmbeddingDeployment",
    "Forecast",
    "KeyLimits",
    "LlmDeployment",
    "Match",
    "MeshClient",
    "MeshConfig",
    "ModelMetadata",
    "Placement",
    "PythonDeployment",
    "ProxyDeployment",
    "RateLimiter",
    "RateLimiterResource",
    "Replicas",
    "Resources",
    "ResponseCache",
    "Route",
    "RouteStatus",
    "RoutedModel",
    "RuntimeEnv",
    "Rollout",
    "ScalingFunction",
    "ScalingLoad",
    "Schedule",
    "Scheduling",
    "SemanticCacheDeployment",
    "ServeDeployment",
    "Shadow",
    "SlowReplicas",
    "TensorMetadata",
    "TrafficSplit",
    "TritonDeployment",
    "load_mesh_config",
    "load_routes",
    "load_spec",
    "parse_spec",
}


def test_names() -> None:
    """A new public name is added here on purpose."""
    assert set(serving.sdk.__all__) == PUBLIC
    assert set(serving.__all__) <= PUBLIC
    assert len(serving.sdk.__all__) == len(set(serving.sdk.__all__))
    assert set(serving.sdk.__all__) <= set(dir(serving.sdk))


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_each_is_there_and_documented(name: str) -> None:
    member = getattr(serving.sdk, name)
    assert member.__name__ == name
    assert inspect.getdoc(member)
    assert getattr(importlib.import_module(member.__module__), name) is member
    if name in serving.__all__:
        assert getattr(serving, name) is member


@pytest.mark.parametrize("package", [serving, serving.sdk])
def test_unknown_names_are_refused(package: object) -> None:
    with pytest.raises(AttributeError, match="has no attribute 'MeshClinet'"):
        _ = package.MeshClinet  # type: ignore[attr-defined]


def test_reading_a_spec_does_not_import_grpc() -> None:
    code = "import sys, serving, serving.sdk; serving.load_spec; print('grpc' in sys.modules, 'ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False False"


def test_both_clients_have_the_same_methods() -> None:
    """The blocking client is the same, without `async`."""

    def methods(kind: type) -> dict[str, inspect.Signature]:
        public = inspect.getmembers(kind, lambda member: inspect.isfunction(member))
        return {name: inspect.signature(member) for name, member in public if not name.startswith("_")}

    blocking, other = methods(MeshClient), methods(AsyncMeshClient)
    assert set(other) - set(blocking) == {"inference_client"}
    assert set(blocking) - set(other) == {"is_stale", "stats"}
    for name in set(blocking) & set(other):
        assert list(blocking[name].parameters.values()) == list(other[name].parameters.values()), name


def test_a_replica_loads_no_specs() -> None:
    code = "import sys, serving.python_deployment; print('yaml' in sys.modules, 'serving.sdk.spec' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["False", "False"]
