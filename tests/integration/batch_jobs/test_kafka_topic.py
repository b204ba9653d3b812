"""A real broker of Kafka, where `MESH_TEST_KAFKA` names one ("host:port") and `confluent-kafka` is installed."""

from __future__ import annotations

import json
import os
import uuid

import pytest

from serving.batch.checkpoint import IDENTIFIER
from serving.batch.sources import KafkaSource

SERVERS = os.environ.get("MESH_TEST_KAFKA", "")
pytestmark = pytest.mark.skipif(not SERVERS, reason="MESH_TEST_KAFKA names no broker")


def test_each_message_is_read_once_in_every_run() -> None:
    kafka = pytest.importorskip("confluent_kafka")
    topic = f"mesh-{uuid.uuid4().hex}"
    producer = kafka.Producer({"bootstrap.servers": SERVERS})
    for number in range(1000):
        producer.produce(topic, json.dumps({"n": number}).encode(), key=str(number).encode())
    producer.flush(30)
    source = KafkaSource(SERVERS, topic, max_rows=300, until_latest=True)
    position: object = {}
    seen: dict[str, int] = {}
    while (plan := source.plan(position)) is not None:  # type: ignore[arg-type]
        for partition, (start, end) in plan["ranges"].items():
            for _ in range(2):  # as a run that is resumed does
                for table in source._read_range((int(partition), start, end)):
                    numbers = [int(str(n)) for n in table.column("n").to_pylist()]
                    seen.update(zip(table.column(IDENTIFIER).to_pylist(), numbers, strict=True))
        position = source.advance(position, plan)  # type: ignore[arg-type]
    assert source.ended(position)  # type: ignore[arg-type]
    assert sorted(seen.values()) == list(range(1000))
