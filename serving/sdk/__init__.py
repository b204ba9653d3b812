"""What users write: an application in Python or YAML, and the clients that deploy it and send requests to it.

Each name is imported when it is first used: the clients bring gRPC, which a program that only reads specs does not
need, and the parts of the mesh that read tensors as clients do need no specs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serving.discovery.client_config import ClientConfig, ClientStats
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
    from serving.sdk.api_keys import ApiKey, CreatedKey, KeyLimits
    from serving.sdk.blocking import MeshClient
    from serving.sdk.broker_errors import QueueFull
    from serving.sdk.client import AsyncMeshClient
    from serving.sdk.connection import ClusterConfig, Connection, MeshConfig, load_mesh_config
    from serving.sdk.load import load_spec, parse_spec
    from serving.sdk.parts import TicketPart
    from serving.sdk.queue import Callback
    from serving.sdk.routes import Route, RoutedModel, RouteStatus, load_routes
    from serving.sdk.scaling import ScalingLoad
    from serving.sdk.spec import Application, Placement
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

_WHERE = {
    "BF16": "serving.sdk.tensors",
    "ApiKey": "serving.sdk.api_keys",
    "AppEvent": "serving.sdk.status",
    "AppStatus": "serving.sdk.status",
    "Application": "serving.sdk.spec",
    "Artifact": "serving.sdk._artifacts",
    "AsyncMeshClient": "serving.sdk.client",
    "Autoscaling": "serving.sdk._scaling_options",
    "BatchDeployment": "serving.sdk._deployments",
    "BrokerCallbacks": "serving.sdk._broker_options",
    "BrokerDeployment": "serving.sdk._deployments",
    "BrokerDrain": "serving.sdk.tickets",
    "Callback": "serving.sdk.queue",
    "CallbackStatus": "serving.sdk.tickets",
    "Canary": "serving.sdk._traffic_options",
    "CanaryChecks": "serving.sdk._traffic_options",
    "CanaryStep": "serving.sdk._traffic_options",
    "ClientConfig": "serving.discovery.client_config",
    "ClientStats": "serving.discovery.client_config",
    "ClusterConfig": "serving.sdk.connection",
    "Connection": "serving.sdk.connection",
    "CppDeployment": "serving.sdk._deployments",
    "CreatedKey": "serving.sdk.api_keys",
    "DeployResult": "serving.sdk.status",
    "EmbeddingDeployment": "serving.sdk._deployments",
    "Forecast": "serving.sdk._scaling_options",
    "KeyLimits": "serving.sdk.api_keys",
    "LlmDeployment": "serving.sdk._deployments",
    "Match": "serving.sdk._traffic_options",
    "MeshClient": "serving.sdk.blocking",
    "MeshConfig": "serving.sdk.connection",
    "ModelMetadata": "serving.sdk.status",
    "Placement": "serving.sdk.spec",
    "ProxyDeployment": "serving.sdk._deployments",
    "PythonDeployment": "serving.sdk._deployments",
    "QueueFull": "serving.sdk.broker_errors",
    "QueueItem": "serving.sdk.tickets",
    "QueueStatistics": "serving.sdk.tickets",
    "RateLimiter": "serving.sdk._triton_options",
    "RateLimiterResource": "serving.sdk._triton_options",
    "RedisJournals": "serving.sdk._broker_options",
    "Replicas": "serving.sdk._resource_options",
    "Resources": "serving.sdk._resource_options",
    "ResponseCache": "serving.sdk._triton_options",
    "Rollout": "serving.sdk._rollout_options",
    "Route": "serving.sdk.routes",
    "RouteStatus": "serving.sdk.routes",
    "RoutedModel": "serving.sdk.routes",
    "RuntimeEnv": "serving.sdk._python_options",
    "ScalingFunction": "serving.sdk._scaling_options",
    "ScalingLoad": "serving.sdk.scaling",
    "Schedule": "serving.sdk._scaling_options",
    "Scheduling": "serving.sdk._scheduling_options",
    "SemanticCacheDeployment": "serving.sdk._deployments",
    "ServeDeployment": "serving.sdk._deployments",
    "Shadow": "serving.sdk._traffic_options",
    "SlowReplicas": "serving.sdk._scheduling_options",
    "TensorMetadata": "serving.sdk.status",
    "Ticket": "serving.sdk.tickets",
    "TicketPart": "serving.sdk.parts",
    "TrafficSplit": "serving.sdk._traffic_options",
    "TritonDeployment": "serving.sdk._deployments",
    "load_mesh_config": "serving.sdk.connection",
    "load_routes": "serving.sdk.routes",
    "load_spec": "serving.sdk.load",
    "parse_spec": "serving.sdk.load",
    "verify_webhook": "serving.webhooks",
}


def __getattr__(name: str) -> Any:
    module = _WHERE.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(module), name)


def __dir__() -> list[str]:
    return sorted(__all__)
