"""Lines of a batch from its input to its output, and what is published of a job that was stopped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from serving._proto import batch_pb2 as pb
from serving.batch.checkpoint import Checkpoint, PartWriter
from serving.batch.checkpoint.parts import CACHED_TOKENS, COMPLETION_TOKENS, ERROR, PROMPT_TOKENS
from serving.batch.orders.claims import ClaimLost
from serving.batch.rows.request import RowAnswer, RowFault
from serving.batch.runner.batch_job import BatchJob, Sending, fenced
from serving.batch.runner.job import Halt
from serving.batch.runner.lines import AnswerLines, RequestLines, line_of
from serving.batch.sending.places import Discovered
from serving.batch.sources.splits import Listed, Split
from serving.batch.stages.columns import cells_of, columns_of, with_columns
from serving.batch.stages.settings import ProcessorConfig
from serving.batch.store.content import ContentStore, kept
from serving.batch.store.files import INPUT, file_record
from serving.config import EtcdConfig
from serving.errors import DataLoss, Unavailable
from tests.support.batches import T0, order_of

URL = "/v1/chat/completions"
MESH = Discovered(EtcdConfig(("localhost:1",)))


def request(custom_id: str, **body: Any) -> dict[str, Any]:
    return {"custom_id": custom_id, "method": "POST", "url": URL, "body": {"model": "m", "messages": [], **body}}


def answered(status: int = 200, body: bytes = b"{}", fault: str = "") -> RowAnswer:
    told = RowFault(fault, f"it is {fault}") if fault else None
    return RowAnswer(status, json.loads(body) if status else None, body, "req_1", fault=told)


def answers_of(table: pa.Table, answers: Sequence[RowAnswer]) -> pa.Table:
    """As the processor gives them."""
    config = ProcessorConfig(MESH, task="raw")
    return with_columns(table, columns_of(config, [cells_of(config, one) for one in answers]))


class Stored:
    """A batch whose input is in a store, and its job."""

    def __init__(self, folder: Path, lines: bytes) -> None:
        self.store = ContentStore(str(folder))
        self.store.start()
        self.order = order_of(store=self.store.url)
        content = kept(self.store, "default", lambda writing: writing.write(lines))
        record = file_record("default", "file-1", content, filename="in", purpose=INPUT, now=T0, expires_after_s=0)
        self.job = self.another({"file-1": record})
        self.input = self.store.path(content.uri)
        self.records = {"file-1": record}

    def another(self, records: dict[str, pb.FileRecord]) -> BatchJob:
        return BatchJob(self.order, lambda _, file: records.get(file), Sending(MESH, workers=1))

    def rows(self) -> pa.Table:
        source = RequestLines(self.input, {"m": "ns/app/m"})
        split = Split(Listed(self.input.name, str(self.input), self.input.stat().st_size), 0, 1 << 40)
        return pa.concat_tables(source.read_split(split))

    def commit(self, *parts: pa.Table) -> Checkpoint:
        """As a driver that was killed has left them."""
        job = self.job
        description = {"source": job._source({}).describe(), "sink": job._sink.describe()}
        checkpoint = Checkpoint(job._files, description, job._sink.part_format)
        checkpoint.begin(job._source({}).plan({}) or {})
        writer = PartWriter(str(job._files.root), 1, checkpoint.epoch, job._sink.part_format, 0.0)
        for part in parts:
            checkpoint.take(writer.write(AnswerLines(self.order.id)(part)))
        checkpoint.commit()
        return checkpoint

    def lines(self, published_id: str, files: Sequence[pb.FileRecord]) -> list[dict[str, Any]]:
        (record,) = (one for one in files if one.id == published_id)
        return [json.loads(line) for line in self.store.path(record.uri).read_text().splitlines()]


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    requests = [request("ä"), request("b"), request("c", user=None), request("d"), request("e")]
    texts = [json.dumps(one).encode() for one in requests]
    return Stored(tmp_path, b"\n".join(texts[:3]) + b"\n\n" + b"".join(text + b"\r\n" for text in texts[3:]))


def test_rows_are_the_lines_with_where_they_stand(stored: Stored) -> None:
    stored.job.check()
    rows = stored.rows().to_pylist()
    text = stored.input.read_bytes()
    assert [json.loads(text[row["position"] :].splitlines()[0])["custom_id"] for row in rows] == list("äbcde")
    assert [json.loads(row["custom_id"]) for row in rows] == list("äbcde")
    body = json.loads(rows[2]["body"])
    assert body == {"model": "ns/app/m", "messages": [], "user": None}
    assert len({row["__row__"] for row in rows}) == 5
    assert list(stored.job._source({}).in_order()) == [(row["position"], row["custom_id"]) for row in rows]


def test_a_line_of_the_output_is_one_line_of_json() -> None:
    body = b'{\r\n "a": "x\\ny"\n}'
    response = {"status_code": 200, "request_id": 'q"', "body": body.decode()}
    line = line_of("n", '"\\u00e4"', response, None)
    assert "\n" not in line
    found = json.loads(line)
    assert found["id"].startswith("batch_req_")
    assert (found["custom_id"], found["error"]) == ("ä", None)
    assert found["response"] == {"status_code": 200, "request_id": 'q"', "body": {"a": "x\ny"}}


def test_answers_become_lines_and_counts(stored: Stored) -> None:
    usage = b'{"usage": {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 3}}}'
    answers = [answered(body=usage), answered(400, b'{"error": {"message": "no"}}', "bad"), answered(0, fault="gone")]
    table = AnswerLines("batch_1")(answers_of(stored.rows().slice(0, 3), answers))
    rows = table.to_pylist()
    assert [(row[PROMPT_TOKENS], row[COMPLETION_TOKENS], row[CACHED_TOKENS]) for row in rows] == [(5, 2, 3)] + [
        (0, 0, 0)
    ] * 2
    assert [row[ERROR] is None for row in rows] == [True, False, False]
    lines = [json.loads(row["line"]) for row in rows]
    assert [one["response"] and one["response"]["status_code"] for one in lines] == [200, 400, None]
    assert [one["error"] for one in lines] == [None, None, {"code": "gone", "message": "it is gone"}]


def test_what_is_done_of_an_expired_batch_is_published_and_the_rest_told(stored: Stored) -> None:
    checked = stored.job.check()
    assert (checked.total, checked.models) == (5, ("m",))
    rows = stored.rows()
    usage = b'{"usage": {"prompt_tokens": 7, "completion_tokens": 2}}'
    stored.commit(
        answers_of(rows.slice(3, 2), [answered(body=usage), answered(500, b'{"error": {}}', "broken")]),
        answers_of(rows.slice(0, 1), [answered(body=usage)]),
    )
    again = stored.another(stored.records)  # which never saw what the first one did
    again.check()
    published = again.publish(Halt.EXPIRED)
    counts = published.counts
    assert (counts.total, counts.completed, counts.failed, counts.prompt_tokens) == (5, 2, 1, 14)
    output = stored.lines(published.output_file, published.files)
    errors = stored.lines(published.error_file, published.files)
    assert [one["custom_id"] for one in output] == ["ä", "d"]
    assert [(one["custom_id"], (one["error"] or {}).get("code")) for one in errors] == [
        ("b", "batch_expired"),
        ("c", "batch_expired"),
        ("e", None),
    ]
    assert len({one["id"] for one in [*output, *errors]}) == 5
    repeated = again.publish(Halt.EXPIRED)
    assert stored.lines(repeated.output_file, repeated.files) == output
    again.unpublish(published)
    assert [stored.store.path(one.uri).exists() for one in (*published.files, *repeated.files)] == [False] * 2 + [
        True
    ] * 2
    again.discard()
    assert list(stored.store.work_folders()) == []


def test_of_a_cancelled_batch_only_what_is_done_is_published(stored: Stored) -> None:
    stored.job.check()
    published = stored.job.publish(Halt.CANCELLED)  # nothing was begun
    assert (published.files, published.counts.total) == ((), 5)
    stored.commit(answers_of(stored.rows().slice(1, 1), [answered()]))
    published = stored.job.publish(Halt.CANCELLED)
    assert [one["custom_id"] for one in stored.lines(published.output_file, published.files)] == ["b"]
    assert published.error_file == ""


def test_who_was_overtaken_has_lost_the_batch(stored: Stored) -> None:
    stored.job.check()
    older = stored.commit(answers_of(stored.rows().slice(1, 1), [answered()]))
    another = stored.another(stored.records)
    another.check()
    another.publish(Halt.CANCELLED)
    older.take(
        PartWriter(str(stored.job._files.root), 1, older.epoch, stored.job._sink.part_format, 0.0).write(
            AnswerLines("b")(answers_of(stored.rows().slice(2, 1), [answered()]))
        )
    )
    with pytest.raises(ClaimLost, match="another driver"), fenced():
        older.commit()


def test_a_finished_job_without_an_answer_of_a_line_publishes_nothing(stored: Stored) -> None:
    stored.job.check()
    rows = stored.rows()
    stored.commit(answers_of(rows.slice(0, 4), [answered()] * 4))
    with pytest.raises(DataLoss, match=f"at byte {rows.to_pylist()[4]['position']} "):
        stored.job.publish(None)
    assert len(list(stored.store.found())) == 1, "the input only"


def test_an_input_is_lost_only_where_its_store_is_there(stored: Stored) -> None:
    stored.input.unlink()
    with pytest.raises(DataLoss, match="is not there"):
        stored.job.check()
    content = stored.input.parent.parent
    content.rename(content.with_name("elsewhere"))
    with pytest.raises(Unavailable, match="is it mounted"):
        stored.job.check()


def test_an_input_that_is_gone_is_told(stored: Stored) -> None:
    checked = stored.another({}).check()
    assert [one.code for one in checked.errors] == ["input_file_not_found"]
