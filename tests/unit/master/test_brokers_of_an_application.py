"""Brokers as a master sees them: what they are told, and when they are replaced."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from serving._proto import records_pb2 as pb
from serving.broker import told
from serving.broker.queue import QueueSettings
from serving.config import EtcdConfig
from serving.errors import InvalidArgument
from serving.master.config import MasterConfig
from serving.master.names import ReplicaName
from serving.master.order import goals
from serving.master.replica_config import PythonActorClass, build_launch
from serving.store.keys import AppKey
from serving.store.records import decode

APP = AppKey("default", "app")
CONFIG = MasterConfig("east", EtcdConfig(("127.0.0.1:1",)), "python", "/cache")
NAME = ReplicaName(APP, 1, "queue", 2, 0)


def deployment(name: str, kind: str, **fields: object) -> pb.DeploymentSpec:
    made = pb.DeploymentSpec(name=name, replicas=pb.Replicas(min=1, max=1))
    getattr(made, kind).SetInParent()
    for field, value in fields.items():
        setattr(getattr(made, kind), field, value)
    return made


def order(*deployments: pb.DeploymentSpec, revision: int = 2) -> pb.Placement:
    spec = pb.ApplicationSpec(namespace=APP.namespace, name=APP.name, deployments=deployments)
    return pb.Placement(generation=1, stored=pb.StoredSpec(spec=spec, revision=revision))


def told_config(placement: pb.Placement) -> pb.ReplicaConfig:
    launch = build_launch(CONFIG, placement, NAME)
    assert launch.actor == PythonActorClass("serving.broker.actor", "BrokerActor")
    return decode(pb.ReplicaConfig, launch.config_json.encode())


def test_a_broker_is_told_whose_requests_it_takes_and_where_they_lie() -> None:
    others = (
        deployment("chat", "llm"),
        deployment("ray", "serve"),
        deployment("digits", "triton"),
        deployment("fast", "cpp"),
        deployment("reader", "python"),
    )
    config = told_config(order(*others, deployment("queue", "broker", per_replica=3)))
    assert list(config.broker.before) == ["chat", "digits", "fast", "reader"]
    settings = told.broker_settings(config)
    assert settings.deployments == ("chat", "digits", "fast", "reader")
    assert settings.folder == Path("/cache/broker/default/app/queue")
    assert (settings.lease_s, settings.max_attempts, settings.max_result_bytes) == (15.0, 3, 64 << 20)
    config.broker.MergeFrom(pb.BrokerDeployment(lease_s=4, max_tenant_items=7, path="/data", sync="normal"))
    settings = told.broker_settings(config)
    assert (settings.lease_s, settings.max_tenant_items, settings.sync) == (4.0, 7, "normal")
    assert (settings.max_tenant_bytes, settings.dead_ttl_s) == (4 << 30, 604_800.0)
    assert settings.folder == Path("/data/default/app/queue")
    assert settings.queue == QueueSettings()
    config.broker.MergeFrom(pb.BrokerDeployment(ageing_s=0, short_share=0.6, long_share=0.2))
    assert told.broker_settings(config).queue == QueueSettings(ageing_s=math.inf, short_share=0.6, long_share=0.2)


def test_a_tenant_without_limits_of_its_own_has_those_of_all() -> None:
    config = told_config(order(deployment("chat", "llm"), deployment("queue", "broker")))
    config.broker.MergeFrom(pb.BrokerDeployment(max_items=5_000_000, max_bytes=1 << 40, dead_ttl_s=60))
    settings = told.broker_settings(config)
    assert (settings.max_tenant_items, settings.max_tenant_bytes, settings.dead_ttl_s) == (5_000_000, 1 << 40, 60.0)
    config.broker.max_tenant_bytes = 7
    assert told.broker_settings(config).max_tenant_bytes == 7


def test_what_a_broker_must_be_told() -> None:
    with pytest.raises(InvalidArgument, match=r"broker\.before is empty"):
        told.broker_settings(pb.ReplicaConfig(cache_dir="/cache", broker=pb.BrokerDeployment()))
    with pytest.raises(InvalidArgument, match=r"neither broker\.path nor cache_dir"):
        told.broker_settings(pb.ReplicaConfig(broker=pb.BrokerDeployment(before=["chat"])))


def test_its_record_names_journals_and_deployments() -> None:
    config = told_config(order(deployment("chat", "llm"), deployment("queue", "broker", per_replica=3)))
    report = pb.ReplicaReport(address="10.0.0.1:7", revision=2, pid=5)
    record = told.endpoint(config, report, "node", ("j1", "j2"))
    assert (record.role, record.protocol, record.state) == ("broker", "broker-grpc", "ready")
    assert record.address == "10.0.0.1:7"
    assert (list(record.before), list(record.journals), record.per_replica) == (["chat"], ["j1", "j2"], 3)
    assert not record.models


def test_a_broker_for_all_is_replaced_when_another_deployment_can_ask_it() -> None:
    chat, reader, queue = deployment("chat", "llm"), deployment("reader", "python"), deployment("queue", "broker")
    digits, ray = deployment("digits", "triton"), deployment("ray", "serve")
    before = order(chat, queue, revision=1).stored.spec

    def same(*deployments: pb.DeploymentSpec) -> bool:
        (found,) = (one for one in goals(order(*deployments), [1], {1: before}) if one.deployment == "queue")
        return 1 in found.same

    assert same(chat, queue)
    assert same(ray, chat, queue)
    assert not same(digits, chat, queue)
    assert not same(chat, reader, queue)
    named = deployment("queue", "broker")
    named.broker.before.append("chat")
    assert same(chat, reader, named), "it names what it took before"


def test_how_requests_come_replaces_the_broker_and_no_replica() -> None:
    pushed = (deployment("reader", "python"), deployment("queue", "broker"))
    pulled = (deployment("reader", "python"), deployment("queue", "broker"))
    pulled[0].dispatch = "pull"
    before = order(*pushed, revision=1).stored.spec
    same = {goal.deployment: goal.same for goal in goals(order(*pulled), [1], {1: before})}
    assert 1 in same["reader"], "its replicas go on"
    assert 1 not in same["queue"]
    record = told.endpoint(told_config(order(*pulled)), pb.ReplicaReport(address="a:1"), "n", ["j"])
    assert list(record.pulled) == ["reader"]
