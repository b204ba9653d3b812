"""What a broker is told in a spec: what users write, how it is read, and the record of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from serving._proto import records_pb2 as pb
from serving.sdk._table import BYTES, SECONDS, Field, ListOf, Number, Record, Text, Whole

_AGEING_S: Final = 60.0
_SHORT: Final = 0.5
_LONG: Final = 0.25
BROKER: Final = Record(
    "broker",
    (
        Field("before", ListOf(Text()), "The deployments whose requests it takes; empty is all that can.", default=()),
        Field("lease", SECONDS, "A request goes back so long after its replica's last word; 0 is 15s.", default=0.0),
        Field("max_attempts", Whole(), "Starts of a request until it is given up; 0 is 3.", default=0),
        Field("result_ttl", SECONDS, "Results are kept for so long; 0 is an hour.", default=0.0),
        Field("dead_ttl", SECONDS, "Dead letters are kept for so long at least; 0 is 168h.", default=0.0),
        Field("max_items", Whole(), "Requests that wait or run; 0 is 1000000.", default=0),
        Field("max_bytes", BYTES, "Size of what is kept, results included: 1Gi; 0 is 4 GiB.", default=0),
        Field("max_tenant_items", Whole(), "Those of one tenant; 0 is no limit of its own.", default=0),
        Field("max_tenant_bytes", BYTES, "Size of a tenant's requests; 0 is no limit of its own.", default=0),
        Field("max_request_bytes", BYTES, "Size of one request; 0 is 64 MiB.", default=0),
        Field("max_result_bytes", BYTES, "Size of one result; 0 is 64 MiB.", default=0),
        Field("path", Text(), "Its folder on its node; without it in the node's cache.", default=""),
        Field("sync", Text(), "full (on disk when it is answered) or normal (soon after).", default=""),
        Field("ageing", SECONDS, "A waiting request rises by a class for each; 0 is never.", default=_AGEING_S),
        Field(
            "short_share", Number(), "Of the running places, kept for short requests while some wait.", default=_SHORT
        ),
        Field("long_share", Number(), "The same for long requests.", default=_LONG),
        Field("per_replica", Whole(), "Requests that a replica may hold; 0 is as many as keep it busy.", default=0),
    ),
)


def broker_record(values: Mapping[str, Any]) -> pb.BrokerDeployment:
    """The record of what `BROKER` read. Defaults are not stored."""
    ageing, short, long = values["ageing"], values["short_share"], values["long_share"]
    return pb.BrokerDeployment(
        before=values["before"],
        lease_s=values["lease"],
        max_attempts=values["max_attempts"],
        result_ttl_s=values["result_ttl"],
        dead_ttl_s=values["dead_ttl"],
        max_items=values["max_items"],
        max_bytes=values["max_bytes"],
        max_tenant_items=values["max_tenant_items"],
        max_tenant_bytes=values["max_tenant_bytes"],
        max_request_bytes=values["max_request_bytes"],
        max_result_bytes=values["max_result_bytes"],
        path=values["path"],
        sync=values["sync"],
        ageing_s=None if ageing == _AGEING_S else ageing,
        short_share=None if short == _SHORT else short,
        long_share=None if long == _LONG else long,
        per_replica=values["per_replica"],
    )
