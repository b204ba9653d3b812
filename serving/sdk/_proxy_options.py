"""What a proxy is told in a spec: how it is read, and the record of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, Final

from google.protobuf.struct_pb2 import Struct

from serving._proto import records_pb2 as pb
from serving.routing import OutlierConfig, RetryBudgetConfig, RoutingPolicy
from serving.routing.policy import CHOICES
from serving.sdk._ingress_options import BUSY_POLL
from serving.sdk._table import BYTES, SECONDS, Field, Kind, MapOf, Number, Record, Text, Whole, Word
from serving.types import PROXY_GRPC
from serving.validation.proxy import PROTOCOLS

_DOCS: Final = {
    "choice": "How an endpoint is chosen.",
    "hash_key": "Of consistent_hash: the metadata whose value says where a request belongs.",
    "prefer_labels": "Endpoints that miss the fewest of these labels come first.",
    "outliers": "When an endpoint that fails is left out for a while.",
    "budget": "How many requests may be repeated.",
}


def _kind_of(name: str, default: object) -> Kind:
    """The kind of a field of the policy, by its default value."""
    if name == "choice":
        return Text(allowed=CHOICES)
    if name == "prefer_labels":
        return MapOf(Word())
    if isinstance(default, OutlierConfig | RetryBudgetConfig):
        return _record_of(f"the policy's {name}", asdict(default))
    if isinstance(default, str):
        return Text()
    return Whole() if isinstance(default, int) else Number()


def _record_of(title: str, defaults: Mapping[str, object]) -> Record:
    """Every field may be left out, and reads as None then: the policy itself knows its defaults."""
    made = [
        Field(name, _kind_of(name, value), _DOCS.get(name, "See docs/guides/routing.md."))
        for name, value in defaults.items()
    ]
    return Record(title, tuple(made))


_POLICY: Final = _record_of(
    "a routing policy", {entry.name: getattr(RoutingPolicy(), entry.name) for entry in fields(RoutingPolicy)}
)
PROXY: Final = Record(
    "proxy",
    (
        Field(
            "protocol",
            Text(allowed=PROTOCOLS),
            "What clients speak: gRPC (KServe v2), or HTTP (OpenAI's API, KServe v2).",
            default=PROXY_GRPC,
        ),
        Field("policy", _POLICY, "Of gRPC proxies: how requests are sent to replicas; without it the defaults."),
        Field("hold", SECONDS, "How long requests wait while no replica takes new work; 0 is 30s.", default=0.0),
        Field("max_message_bytes", BYTES, "Largest message: 64Mi; 0 is 2 GiB - 1, of HTTP proxies 8Mi.", default=0),
        BUSY_POLL,
    ),
)


def plain_policy(policy: object) -> object:
    """A `RoutingPolicy` as the values that its YAML would hold, without those that are the defaults."""
    if not isinstance(policy, RoutingPolicy):
        return policy
    return _different(policy.to_dict(), RoutingPolicy().to_dict())


def _different(values: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    """Those that are not as usual; of a nested record those of its fields."""
    inner = {
        name: _different(value, usual[name]) if isinstance(usual.get(name), Mapping) and usual[name] else value
        for name, value in values.items()
    }
    return {name: value for name, value in inner.items() if value != usual.get(name) and value != {}}


def proxy_record(values: Mapping[str, Any]) -> pb.ProxyDeployment:
    """The record of what `PROXY` read."""
    record = pb.ProxyDeployment(
        hold_s=values["hold"],
        max_message_bytes=values["max_message_bytes"],
        busy_poll_us=values["busy_poll_us"],
        protocol=values["protocol"] if values["protocol"] != PROXY_GRPC else "",  # as specs of before said it
    )
    policy = _given(values["policy"] or {})
    if policy:
        record.policy.CopyFrom(_struct(policy))
    return record


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    """What was written, with nested records that hold anything."""
    inner = {name: _given(value) if isinstance(value, Mapping) else value for name, value in values.items()}
    return {name: value for name, value in inner.items() if value is not None and value != {}}


def _struct(values: Mapping[str, Any]) -> Struct:
    made = Struct()
    made.update(values)
    return made
