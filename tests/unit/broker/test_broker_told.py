"""What a broker reads from its configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving._proto import broker_pb2 as bpb
from serving._proto import records_pb2 as pb
from serving.broker import told
from serving.broker.callbacks.settings import CallbackSettings
from serving.broker.messages import read_submit
from serving.broker.redis_log.settings import Address
from serving.errors import InvalidArgument


def config(**callbacks: object) -> pb.ReplicaConfig:
    broker = pb.BrokerDeployment(before=["it"], path="/var/lib/mesh")
    if callbacks:
        broker.callbacks.CopyFrom(pb.BrokerCallbacks(**callbacks))  # type: ignore[arg-type]
    return pb.ReplicaConfig(namespace="ns", application="app", deployment="queue", broker=broker)


def test_without_callbacks_they_are_as_usual() -> None:
    settings = told.broker_settings(config())
    assert settings.callbacks == CallbackSettings()
    assert settings.application == "ns/app"


def test_tenants_without_limits_of_their_own_have_those_of_all() -> None:
    found = told.broker_settings(config(concurrency=100, max_due=200_000)).callbacks
    assert (found.per_tenant, found.max_tenant_due) == (100, 200_000)
    kept = config()
    kept.broker.max_bytes = 1 << 40
    assert not told.broker_settings(kept).tenants_apart
    kept.broker.max_tenant_bytes = 1 << 30
    assert told.broker_settings(kept).tenants_apart


def test_results_cannot_be_kept_for_longer_than_the_longest_time() -> None:
    given = config()
    given.broker.max_result_ttl_s = 60
    with pytest.raises(InvalidArgument, match=r"result_ttl of 3600 s is longer than max_result_ttl, 60 s"):
        told.broker_settings(given)
    given.broker.result_ttl_s = 60
    settings = told.broker_settings(given)
    asked = bpb.SubmitRequest(deployment="it", request=bpb.Request(infer=b"x"), result_ttl_s=60)
    assert read_submit(asked, settings, 0.0, {})[0].ttl_s == 60
    asked.result_ttl_s = 61
    with pytest.raises(InvalidArgument, match=r"result_ttl_s: this broker keeps results for at most 60 s"):
        read_submit(asked, settings, 0.0, {})


def test_every_field_of_callbacks_is_read() -> None:
    given = {
        "disabled": True, "hosts": ["a.org"], "networks": ["10.0.0.0/8"], "allow_http": True, "secrets": "/s",
        "timeout_s": 1.0, "max_attempts": 2, "max_age_s": 3.0, "first_delay_s": 4.0, "max_delay_s": 5.0,
        "concurrency": 6, "per_host": 7, "max_inline_bytes": 8, "max_due": 9,
        "per_tenant": 5, "max_tenant_due": 8,
    }  # fmt: skip
    assert set(given) == {field.name for field in pb.BrokerCallbacks.DESCRIPTOR.fields}
    found = told.broker_settings(config(**given)).callbacks
    assert (found.hosts, found.networks, found.secrets) == (("a.org",), ("10.0.0.0/8",), Path("/s"))
    for name in set(given) - {"hosts", "networks", "secrets"}:
        assert getattr(found, name) == given[name], name


def test_every_field_of_redis_is_read() -> None:
    given = {
        "url": "rediss://mesh@redis.example.org:6380/2", "password_file": "/p", "ca_file": "/ca", "cert_file": "/c",
        "key_file": "/k", "replicas": 2, "takeover_s": 20.0, "allow_volatile": True,
    }  # fmt: skip
    assert set(given) == {field.name for field in pb.RedisJournals.DESCRIPTOR.fields}
    wanted = config()
    wanted.broker.redis.CopyFrom(pb.RedisJournals(**given))  # type: ignore[arg-type]
    found = told.broker_settings(wanted).redis
    assert found is not None
    assert found.address == Address("redis.example.org", 6380, 2, "mesh", tls=True)
    assert found.scope == "ns/app/queue"
    assert (found.password_file, found.ca_file, found.cert_file, found.key_file) == tuple(
        map(Path, ("/p", "/ca", "/c", "/k"))
    )
    assert (found.replicas, found.takeover_s, found.allow_volatile) == (2, 20.0, True)


def test_without_redis_journals_are_files_and_with_it_its_url_has_no_password() -> None:
    assert told.broker_settings(config()).redis is None
    wanted = config()
    wanted.broker.redis.url = "redis://:geheim@a"
    with pytest.raises(InvalidArgument, match=r"redis.url has a password") as error:
        told.broker_settings(wanted)
    assert "geheim" not in error.value.message
    wanted.broker.redis.url = "redis://[::1]"
    found = told.broker_settings(wanted).redis
    assert found is not None
    assert (str(found.address), found.takeover_s) == ("redis://[::1]:6379/0", 10.0)
