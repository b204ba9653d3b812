"""What an application's HTTP proxy makes of its configuration."""

from __future__ import annotations

import pytest

from serving._proto import records_pb2 as pb
from serving.errors import Code
from serving.http_proxy import settings
from serving.http_proxy.parts import code_of


def config(**proxy: object) -> pb.ReplicaConfig:
    made = pb.ReplicaConfig(id="http-r2-0", namespace="ns", application="app", deployment="http", generation=3)
    made.etcd.endpoints.append("127.0.0.1:1")
    made.proxy.CopyFrom(pb.ProxyDeployment(protocol="http", **proxy))  # type: ignore[arg-type]
    return made


def test_what_is_not_said() -> None:
    told = settings.gateway_config(config())
    assert (told.hold_s, told.max_body_bytes, told.namespaces) == (30.0, 8 << 20, ("ns",))
    assert (told.endpoint_tls, told.resume_streams) == (None, False)
    told = settings.gateway_config(config(hold_s=2, max_message_bytes=100))
    assert (told.hold_s, told.max_body_bytes) == (2, 100)


@pytest.mark.parametrize(
    ("host", "said", "needed"),
    [
        ("", None, False),
        ("127.0.0.1", None, False),
        ("0.0.0.0", None, True),
        ("::", None, True),
        ("0.0.0.0", False, False),
        ("", True, True),
    ],
)
def test_who_needs_a_key(host: str, said: bool | None, needed: bool) -> None:
    """As at gateways: where clients of other machines come, unless it is said otherwise."""
    made = config()
    made.listen_host = host
    if said is not None:
        made.require_keys = said
    assert settings.gateway_config(made).keys_required is needed


def test_its_record() -> None:
    report = pb.ReplicaReport(address="127.0.0.1:2", revision=2, pid=7, metrics_address="127.0.0.1:3")
    record = settings.endpoint(config(), report, "node")
    assert (record.role, record.protocol, list(record.models)) == ("proxy", "openai-http", [])
    assert (record.namespace, record.application, record.deployment) == ("ns", "app", "http")
    assert (record.address, record.state, record.generation, record.revision) == ("127.0.0.1:2", "ready", 3, 2)


def test_codes_of_statuses() -> None:
    found = {status: code_of(status) for status in (200, 302, 400, 404, 429, 499, 500, 503, 504)}
    assert list(found.values()) == [
        *(Code.OK, Code.OK, Code.INVALID_ARGUMENT, Code.INVALID_ARGUMENT, Code.RESOURCE_EXHAUSTED),
        *(Code.CANCELLED, Code.INTERNAL, Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED),
    ]
