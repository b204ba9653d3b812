"""Messages of a Kafka topic, each a JSON object. Needs the package `confluent-kafka`, on the driver and in clusters."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from serving.batch.checkpoint.identifiers import batches_of, identifiers_of
from serving.batch.sources.base import ROWS_IN_PIECE, dataset_of, table_of
from serving.errors import DataLoss, FailedPrecondition, InvalidArgument, NotFound, Unavailable

if TYPE_CHECKING:
    from ray.data import Dataset

JsonObject = Mapping[str, Any]
_TIMEOUT_S: Final = 30.0
_BYTES_OF_ROW: Final = 1024  # about; for Ray Data's plans only


def _client(settings: Mapping[str, str]) -> Any:
    try:
        from confluent_kafka import Consumer
    except ImportError:
        raise FailedPrecondition(
            "Kafka needs the package `confluent-kafka`: pip install confluent-kafka, on the driver and in clusters"
        ) from None
    fixed = {"enable.auto.commit": "false", "enable.partition.eof": "true", "auto.offset.reset": "error"}
    return Consumer({"group.id": "mesh-batch", **settings, **fixed})


class KafkaSource:
    """Offsets are kept in the job's folder, not in Kafka. A batch is what has arrived, at most `max_rows` messages."""

    bounded = False

    def __init__(
        self,
        servers: str,
        topic: str,
        *,
        settings: Mapping[str, str] | None = None,
        identifier: str = "",
        max_rows: int = 100_000,
        poll_s: float = 1.0,
        until_latest: bool = False,
    ) -> None:
        """`servers`: "host:port,...". `settings`: of librdkafka, such as those of TLS.

        `until_latest`: the job ends with the messages that are there at its first start.
        """
        if max_rows < 1 or poll_s <= 0:
            raise InvalidArgument("max_rows and poll_s of a topic must be above 0")
        self._settings = {**(settings or {}), "bootstrap.servers": servers}
        self.topic = topic
        self.identifier = identifier
        self.max_rows = max_rows
        self.poll_s = poll_s
        self.until_latest = until_latest

    def describe(self) -> JsonObject:
        return {
            "kind": "kafka",
            "topic": self.topic,
            "identifier": self.identifier,
            "until_latest": self.until_latest,
        }

    def plan(self, position: JsonObject) -> JsonObject | None:
        """`ranges`: of each partition, the first offset and the one after the last. `until`: where the job ends."""
        bounds = self._bounds()
        until = position.get("until") or {partition: high for partition, (_, high) in bounds.items()}
        done = position.get("next", {})
        ranges: dict[str, tuple[int, int]] = {}
        room = self.max_rows
        for partition, (low, high) in sorted(bounds.items()):
            start = done.get(partition, low)
            if start < low:
                raise DataLoss(
                    f"topic {self.topic}, partition {partition}: messages {start} to {low - 1} were deleted unread"
                )
            last = min(high, until.get(partition, 0)) if self.until_latest else high
            end = min(last, start + room)
            if end > start:
                ranges[partition] = (start, end)
                room -= end - start
        return {"ranges": ranges, "until": until} if ranges else None

    def ended(self, position: JsonObject) -> bool:
        if not self.until_latest:
            return False
        done = position.get("next", {})
        until = position.get("until", {})
        return all(done.get(partition, 0) >= offset for partition, offset in until.items())

    def advance(self, position: JsonObject, plan: JsonObject) -> JsonObject:
        ends = {partition: end for partition, (_, end) in plan["ranges"].items()}
        return {"next": {**position.get("next", {}), **ends}, "until": plan["until"]}

    def rows(self, plan: JsonObject) -> int | None:
        return sum(int(end) - int(start) for start, end in plan["ranges"].values())

    def read(self, plan: JsonObject) -> Dataset:
        tasks = [(int(partition), start, end) for partition, (start, end) in sorted(plan["ranges"].items())]
        total = sum(end - start for _, start, end in tasks) * _BYTES_OF_ROW
        return dataset_of("Read kafka", tasks, self._read_range, total)

    def _bounds(self) -> dict[str, tuple[int, int]]:
        client = _client(self._settings)
        from confluent_kafka import KafkaException, TopicPartition

        try:
            topics = client.list_topics(self.topic, timeout=_TIMEOUT_S).topics
            partitions = topics[self.topic].partitions if self.topic in topics else {}
            if not partitions:
                raise NotFound(f"there is no topic {self.topic}")
            return {
                str(number): client.get_watermark_offsets(TopicPartition(self.topic, number), timeout=_TIMEOUT_S)
                for number in partitions
            }
        except KafkaException as error:
            raise Unavailable(f"Kafka does not answer for topic {self.topic}: {error}") from error
        finally:
            client.close()

    def _read_range(self, task: tuple[int, int, int]) -> Iterator[pa.Table]:
        name = f"{self.topic}/{task[0]}"
        for batch in batches_of(self._messages(*task), ROWS_IN_PIECE):
            rows = [_object(value, name, offset) for offset, value in batch]
            offsets, contents = [offset for offset, _ in batch], [value for _, value in batch]
            yield table_of(rows, identifiers_of(rows, self.identifier, name, offsets, contents))

    def _messages(self, partition: int, start: int, end: int) -> Iterator[tuple[int, bytes]]:
        client = _client(self._settings)
        from confluent_kafka import KafkaError, TopicPartition

        try:
            client.assign([TopicPartition(self.topic, partition, start)])
            while True:
                message = client.poll(_TIMEOUT_S)
                if message is None:
                    raise Unavailable(f"Kafka sent nothing of {self.topic}/{partition} for {_TIMEOUT_S:g} s")
                if message.error():
                    # Offsets at the end may be those of transactions, which are no messages.
                    if message.error().code() == KafkaError._PARTITION_EOF:
                        return
                    raise Unavailable(f"Kafka, {self.topic}/{partition}: {message.error()}")
                if message.offset() >= end:
                    return
                yield message.offset(), message.value() or b""
                if message.offset() + 1 >= end:
                    return
        finally:
            client.close()


def _object(value: bytes, where: str, offset: int) -> dict[str, Any]:
    try:
        row = json.loads(value)
    except ValueError as error:
        raise InvalidArgument(f"{where}, offset {offset}: this message is no JSON: {error}") from None
    if not isinstance(row, dict):
        raise InvalidArgument(f"{where}, offset {offset}: a message must be a JSON object")
    return row
