"""What users write: an application in Python or YAML, and the clients that deploy it and send requests to it.

The clients are imported when they are first used: they bring gRPC, which a program that only reads specs does not need.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from serving.sdk._artifacts import Artifact
from serving.sdk._broker_options import BrokerCallbacks, RedisJournals
from serving.sdk._deployments import (
    BatchDeployment,
    BrokerDeployment,
    CppDeployment,
    EmbeddingDeployment,
    LlmDeployment,
    ProxyDeployment,
    PythonDeployment,
    SemanticCacheDeployment,
    ServeDeployment,
    TritonDeployment,
)
from serving.sdk._python_options import RuntimeEnv
from serving.sdk._resource_options import Replicas, Resources
from serving.sdk._rollout_options import Rollout
from serving.sdk._scaling_options import Autoscaling, Forecast, ScalingFunction, Schedule
from serving.sdk._scheduling_options import Scheduling, SlowReplicas
from serving.sdk._traffic_options import Canary, CanaryChecks, CanaryStep, Match, Shadow, TrafficSplit
from serving.sdk._triton_options import RateLimiter, RateLimiterResource, ResponseCache
from serving.sdk.connection import ClusterConfig, Connection, MeshConfig, load_mesh_config
from serving.sdk.load import load_spec, parse_spec
from serving.sdk.scaling import ScalingLoad
from serving.sdk.spec import Application, Placement

if TYPE_CHECKING:
    from serving.discovery.client_config import ClientConfig, ClientStats
    from serving.sdk.api_keys import ApiKey, CreatedKey, KeyLimits
    from serving.sdk.blocking import MeshClient
    from serving.sdk.broker_errors import QueueFull
    from serving.sdk.client import AsyncMeshClient
    from serving.sdk.parts import TicketPart
    from serving.sdk.queue import Callback
    from serving.sdk.routes import Route, RoutedModel, RouteStatus, load_routes
    from serving.sdk.status import AppEvent, AppStatus, DeployResult, ModelMetadata, TensorMetadata
    from serving.sdk.tensors import BF16
    from serving.sdk.tickets import BrokerDrain, CallbackStatus, QueueItem, QueueStatistics, Ticket
    from serving.webhooks import verify_webhook

__all__ = [
    "BF16",
    "ApiKey",
    "AppEvent",
    "AppStatus",
    "Application",
    "Artifact",
    "AsyncMeshClient",
    "Autoscaling",
    "BatchDeployment",
    "BrokerCallbacks",
    "BrokerDeployment",
    "BrokerDrain",
    "Callback",
    "CallbackStatus",
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
    "ProxyDeployment",
    "PythonDeployment",
    "QueueFull",
    "QueueItem",
    "QueueStatistics",
    "RateLimiter",
    "RateLimiterResource",
    "RedisJournals",
    "Replicas",
    "Resources",
    "ResponseCache",
    "Rollout",
    "Route",
    "RouteStatus",
    "RoutedModel",
    "RuntimeEnv",
    "ScalingFunction",
    "ScalingLoad",
    "Schedule",
    "Scheduling",
    "SemanticCacheDeployment",
    "ServeDeployment",
    "Shadow",
    "SlowReplicas",
    "TensorMetadata",
    "Ticket",
    "TicketPart",
    "TrafficSplit",
    "TritonDeployment",
    "load_mesh_config",
    "load_routes",
    "load_spec",
    "parse_spec",
    "verify_webhook",
]

_LAZY = {
    "BF16": "serving.sdk.tensors",
    "ApiKey": "serving.sdk.api_keys",
    "AppEvent": "serving.sdk.status",
    "AppStatus": "serving.sdk.status",
    "AsyncMeshClient": "serving.sdk.client",
    "Callback": "serving.sdk.queue",
    "CallbackStatus": "serving.sdk.tickets",
    "ClientConfig": "serving.discovery.client_config",
    "ClientStats": "serving.discovery.client_config",
    "CreatedKey": "serving.sdk.api_keys",
    "DeployResult": "serving.sdk.status",
    "KeyLimits": "serving.sdk.api_keys",
    "MeshClient": "serving.sdk.blocking",
    "ModelMetadata": "serving.sdk.status",
    "QueueFull": "serving.sdk.broker_errors",
    "QueueItem": "serving.sdk.tickets",
    "BrokerDrain": "serving.sdk.tickets",
    "QueueStatistics": "serving.sdk.tickets",
    "Route": "serving.sdk.routes",
    "RouteStatus": "serving.sdk.routes",
    "RoutedModel": "serving.sdk.routes",
    "TensorMetadata": "serving.sdk.status",
    "Ticket": "serving.sdk.tickets",
    "TicketPart": "serving.sdk.parts",
    "load_routes": "serving.sdk.routes",
    "verify_webhook": "serving.webhooks",
}


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(module), name)


def __dir__() -> list[str]:
    return sorted(__all__)
