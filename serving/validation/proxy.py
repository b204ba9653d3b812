"""What makes the `proxy` part of a spec valid, and which deployments each kind of proxy reaches. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from google.protobuf.json_format import MessageToDict

from serving._proto import records_pb2 as pb
from serving.errors import SpecError
from serving.problems import MAX_TIMEOUT_S, Problem, check_number, check_whole, shown
from serving.routing import RoutingPolicy
from serving.types import PROXY_GRPC, PROXY_HTTP
from serving.validation.cpp import busy_poll_problems
from serving.validation.python import MAX_MESSAGE_BYTES

PROTOCOLS: Final = (PROXY_GRPC, PROXY_HTTP)
_NOT_BY_GRPC: Final = frozenset({"serve", "llm", "semantic_cache", "broker", "batch"})
_BY_HTTP: Final = ("llm", "embedding", "triton", "cpp")


def proxy_problems(path: str, proxy: pb.ProxyDeployment) -> Iterator[Problem]:
    """`path` is the field's."""
    if proxy.protocol and proxy.protocol not in PROTOCOLS:
        yield Problem(f"{path}.protocol", f"{shown(proxy.protocol)} is not known", allowed=PROTOCOLS)
    elif proxy.protocol == PROXY_HTTP:
        yield from _not_with_http(path, proxy)
    else:
        yield from _policy(f"{path}.policy", proxy)
        yield from busy_poll_problems(path, proxy.busy_poll_us)
    yield from check_number(f"{path}.hold", proxy.hold_s, MAX_TIMEOUT_S, "seconds")
    yield from message_problems(path, proxy.max_message_bytes)


def message_problems(path: str, max_message_bytes: int) -> Iterator[Problem]:
    yield from check_whole(f"{path}.max_message_bytes", max_message_bytes, 0, MAX_MESSAGE_BYTES, "; 0 is the default")


def _not_with_http(path: str, proxy: pb.ProxyDeployment) -> Iterator[Problem]:
    if proxy.HasField("policy"):
        text = "is of gRPC proxies only: with `protocol: http` each model says itself how it is chosen (`llm.routing`)"
        yield Problem(f"{path}.policy", text)
    if proxy.busy_poll_us:
        text = "is of gRPC proxies only: what runs with `protocol: http` always sleeps while nothing comes"
        yield Problem(f"{path}.busy_poll_us", text)


def _policy(path: str, proxy: pb.ProxyDeployment) -> Iterator[Problem]:
    try:
        RoutingPolicy.from_dict(MessageToDict(proxy.policy))
    except SpecError as error:
        message = error.detail.removeprefix(f"{error.field}: ")
        field = f"{path}.{error.field}" if error.field else path
        yield Problem(field, message, allowed=tuple(error.allowed), closest=error.closest)


def reach_problems(spec: pb.ApplicationSpec) -> Iterator[Problem]:
    """Proxies stand before something that they reach."""
    others = {one.WhichOneof("kind") for one in spec.deployments if not one.HasField("proxy")}
    protocols = {one.proxy.protocol for one in spec.deployments if one.HasField("proxy")}
    if not protocols:
        return
    if not others:
        yield Problem("deployments", "has proxies only; they need a deployment to send requests to")
        return
    if protocols - {PROXY_HTTP} and others <= _NOT_BY_GRPC:
        yield Problem("deployments", "gRPC proxies do not reach `serve` and `llm`, and there are no other deployments")
    if PROXY_HTTP in protocols and others.isdisjoint(_BY_HTTP):
        reached = ", ".join(f"`{kind}`" for kind in _BY_HTTP)
        yield Problem("deployments", f"HTTP proxies reach {reached}, and there is none of these")


def may_hold_for_none(spec: pb.ApplicationSpec) -> bool:
    """True when a deployment may have no replica at all: gRPC proxies then hold its requests, as it is the only one.

    HTTP proxies hold requests for models that they know, which are those with replicas.
    """
    proxies = [one.proxy.protocol for one in spec.deployments if one.HasField("proxy")]
    return len(spec.deployments) - len(proxies) == 1 and any(one != PROXY_HTTP for one in proxies)
