"""Whose requests a broker takes. Pure."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from serving._proto import records_pb2 as pb
from serving.types import DISPATCH_PULL

PULLED: Final = ("triton", "cpp", "python", "llm", "embedding")  # kinds whose replicas ask brokers for work


def pulled_deployments(spec: pb.ApplicationSpec) -> tuple[str, ...]:
    """The deployments of an application whose replicas ask brokers for work, in its order."""
    return tuple(one.name for one in spec.deployments if one.WhichOneof("kind") in PULLED)


def with_pulled(deployment: pb.DeploymentSpec, spec: pb.ApplicationSpec) -> pb.DeploymentSpec:
    """The deployment of `spec`; of a broker with all that it is before by name, and those of them to which proxies
    bring requests through it only, so that another one is a change."""
    if not deployment.HasField("broker"):
        return deployment
    before = tuple(deployment.broker.before) or pulled_deployments(spec)
    dispatched = {one.name for one in spec.deployments if one.dispatch == DISPATCH_PULL}
    pulled = [name for name in before if name in dispatched]
    if before == tuple(deployment.broker.before) and pulled == list(deployment.broker.pulled):
        return deployment
    named = pb.DeploymentSpec()
    named.CopyFrom(deployment)
    named.broker.before[:] = before
    named.broker.pulled[:] = pulled
    return named


def queued_deployments(spec: pb.ApplicationSpec) -> set[str]:
    """Those for which a broker of the application takes requests."""
    brokers = [with_pulled(one, spec).broker for one in spec.deployments if one.HasField("broker")]
    return {name for broker in brokers for name in broker.before}


def takes(before: Collection[str], deployment: str) -> bool:
    """Whether the broker of an endpoint with this `before` takes requests for the deployment."""
    return not before or deployment in before
