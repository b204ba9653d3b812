"""What a broker reads from its configuration."""

from __future__ import annotations

from pathlib import Path

from serving._proto import records_pb2 as pb
from serving.broker import told
from serving.broker.callbacks.settings import CallbackSettings


def config(**callbacks: object) -> pb.ReplicaConfig:
    broker = pb.BrokerDeployment(before=["it"], path="/var/lib/mesh")
    if callbacks:
        broker.callbacks.CopyFrom(pb.BrokerCallbacks(**callbacks))  # type: ignore[arg-type]
    return pb.ReplicaConfig(namespace="ns", application="app", deployment="queue", broker=broker)


def test_without_callbacks_they_are_as_usual() -> None:
    settings = told.broker_settings(config())
    assert settings.callbacks == CallbackSettings()
    assert settings.application == "ns/app"


def test_every_field_of_callbacks_is_read() -> None:
    given = {
        "disabled": True, "hosts": ["a.org"], "networks": ["10.0.0.0/8"], "allow_http": True, "secrets": "/s",
        "timeout_s": 1.0, "max_attempts": 2, "max_age_s": 3.0, "first_delay_s": 4.0, "max_delay_s": 5.0,
        "concurrency": 6, "per_host": 7, "max_inline_bytes": 8, "max_due": 9,
    }  # fmt: skip
    assert set(given) == {field.name for field in pb.BrokerCallbacks.DESCRIPTOR.fields}
    found = told.broker_settings(config(**given)).callbacks
    assert (found.hosts, found.networks, found.secrets) == (("a.org",), ("10.0.0.0/8",), Path("/s"))
    for name in set(given) - {"hosts", "networks", "secrets"}:
        assert getattr(found, name) == given[name], name
