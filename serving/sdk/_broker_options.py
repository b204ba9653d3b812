"""What a broker is told in a spec: what users write, how it is read, and the record of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from serving._proto import records_pb2 as pb
from serving.sdk._table import BYTES, SECONDS, Field, Flag, ListOf, Number, Record, Text, Whole

_AGEING_S: Final = 60.0
_SHORT: Final = 0.5
_LONG: Final = 0.25


@dataclass(frozen=True, slots=True)
class BrokerCallbacks:
    """Where a broker calls back when a request has ended, and how often it tries. Times are seconds or texts.

    `hosts` may be called, names or `"*.example.org"`, empty is all; of these the ones with public addresses, and those
    with addresses of `networks` (`"10.0.0.0/8"`). `allow_http`: without TLS, too. `secrets` is a folder on its node
    with a file for each secret, lines `whsec_<base64>`. A callback is tried `max_attempts` times, until `max_age` after
    its request's end, each try for `timeout`; the pause after the first one is `first_delay`, and triples up to
    `max_delay`. `concurrency` bounds the calls at once, `per_host` those to one host and port, `per_tenant` those of
    one tenant. Results of more than `max_inline_bytes` are to be fetched. While `max_due` are due, or `max_tenant_due`
    of its tenant, requests that want one are refused; with `disabled`, always.
    """

    disabled: bool = False
    hosts: tuple[str, ...] | list[str] = ()
    networks: tuple[str, ...] | list[str] = ()
    allow_http: bool = False
    secrets: str = ""
    timeout: float | str = 0.0
    max_attempts: int = 0
    max_age: float | str = 0.0
    first_delay: float | str = 0.0
    max_delay: float | str = 0.0
    concurrency: int = 0
    per_host: int = 0
    max_inline_bytes: int | str = 0
    max_due: int = 0
    per_tenant: int = 0
    max_tenant_due: int = 0


@dataclass(frozen=True, slots=True)
class RedisJournals:
    """A Redis server that keeps a broker's journals, so that brokers of other nodes can take them over.

    `url` is `redis[s]://[user@]host[:port][/database]`, without a password: it is in `password_file`, on the broker's
    node, as `ca_file` (of a `rediss` server; without it the system's), `cert_file` and `key_file` are. `replicas` of
    the server must have what is confirmed. `takeover` is the time, in seconds or a text, after which the journals of a
    broker that says nothing are another one's. A server that loses what it has when it ends is refused, unless
    `allow_volatile` is set.
    """

    url: str
    password_file: str = ""
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    replicas: int = 0
    takeover: float | str = 0.0
    allow_volatile: bool = False


REDIS: Final = Record(
    "redis",
    (
        Field("url", Text(), "redis[s]://[user@]host[:port][/database]; without a password.", required=True),
        Field("password_file", Text(), "File on its node with the password.", default=""),
        Field("ca_file", Text(), "Of a rediss server's certificate; empty is the system's.", default=""),
        Field("cert_file", Text(), "The broker's own certificate.", default=""),
        Field("key_file", Text(), "Its key.", default=""),
        Field("replicas", Whole(), "Of the server that have what is confirmed.", default=0),
        Field("takeover", SECONDS, "Another broker takes over so long after its last word; 0 is 10s.", default=0.0),
        Field("allow_volatile", Flag(), "Also a server that may lose what it confirmed.", default=False),
    ),
)
CALLBACKS: Final = Record(
    "callbacks",
    (
        Field("disabled", Flag(), "Requests with a callback are refused.", default=False),
        Field("hosts", ListOf(Text()), "Names that may be called, or *.example.org; empty is all.", default=()),
        Field("networks", ListOf(Text()), "Addresses beside public ones: 10.0.0.0/8.", default=()),
        Field("allow_http", Flag(), "Without TLS, too.", default=False),
        Field("secrets", Text(), "Folder on its node with a file for each secret.", default=""),
        Field("timeout", SECONDS, "Of a try; 0 is 15s.", default=0.0),
        Field("max_attempts", Whole(), "Tries until it is given up; 0 is 20.", default=0),
        Field("max_age", SECONDS, "From the request's end until it is given up; 0 is 3 days.", default=0.0),
        Field("first_delay", SECONDS, "Until the second try, then three times as long each; 0 is 5s.", default=0.0),
        Field("max_delay", SECONDS, "Between two tries at most; 0 is 6 hours.", default=0.0),
        Field("concurrency", Whole(), "Calls at once; 0 is 64.", default=0),
        Field("per_host", Whole(), "Calls at once to one host and port; 0 is 8.", default=0),
        Field("max_inline_bytes", BYTES, "Larger results are to be fetched; 0 is 16 KiB.", default=0),
        Field("max_due", Whole(), "When so many are due, no more are taken; 0 is 100000.", default=0),
        Field("per_tenant", Whole(), "Calls at once of one tenant; 0 is no limit of its own.", default=0),
        Field("max_tenant_due", Whole(), "Those due of one tenant; 0 is no limit of its own.", default=0),
    ),
)
BROKER: Final = Record(
    "broker",
    (
        Field("before", ListOf(Text()), "The deployments whose requests it takes; empty is all that can.", default=()),
        Field("lease", SECONDS, "A request goes back so long after its replica's last word; 0 is 15s.", default=0.0),
        Field("max_attempts", Whole(), "Starts of a request until it is given up; 0 is 3.", default=0),
        Field("result_ttl", SECONDS, "Results are kept for so long; 0 is an hour.", default=0.0),
        Field("max_result_ttl", SECONDS, "The longest that a request may ask for; 0 is 366 days.", default=0.0),
        Field("dead_ttl", SECONDS, "Dead letters are kept for so long at least; 0 is 168h.", default=0.0),
        Field("max_items", Whole(), "Requests that wait or run; 0 is 1000000.", default=0),
        Field("max_bytes", BYTES, "Size of what is kept, results included: 1Gi; 0 is 4 GiB.", default=0),
        Field("max_tenant_items", Whole(), "Those of one tenant; 0 is no limit of its own.", default=0),
        Field("max_tenant_bytes", BYTES, "Size of what is kept of a tenant; 0 is no limit of its own.", default=0),
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
        Field("callbacks", CALLBACKS, "Where and how often it calls back when a request has ended.", default=None),
        Field("redis", REDIS, "The Redis server that keeps its journals, instead of its folder.", default=None),
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
        max_result_ttl_s=values["max_result_ttl"],
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
        callbacks=_callbacks_record(values["callbacks"]),
        redis=_redis_record(values["redis"]),
    )


def _redis_record(values: Mapping[str, Any] | None) -> pb.RedisJournals | None:
    if values is None:
        return None
    same = ("url", "password_file", "ca_file", "cert_file", "key_file", "replicas", "allow_volatile")
    return pb.RedisJournals(**{name: values[name] for name in same}, takeover_s=values["takeover"])


def _callbacks_record(values: Mapping[str, Any] | None) -> pb.BrokerCallbacks | None:
    if values is None:
        return None
    seconds = {f"{name}_s": values[name] for name in ("timeout", "max_age", "first_delay", "max_delay")}
    same = (
        "disabled", "hosts", "networks", "allow_http", "secrets", "max_attempts", "concurrency", "per_host",
        "max_inline_bytes", "max_due", "per_tenant", "max_tenant_due",
    )  # fmt: skip
    return pb.BrokerCallbacks(**{name: values[name] for name in same}, **seconds)
