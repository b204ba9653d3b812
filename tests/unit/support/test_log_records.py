"""Records found in a log that others write to as well."""

from __future__ import annotations

from tests.support.log_records import log_records

ONE, TWO = '{"ts":"1","msg":"say {\\"ts\\":\\"x\\"}"}', '{"ts":"2","msg":"b"}'


def test_others_lines_around_and_between() -> None:
    text = f"starts\n{ONE}\nE stub.cc] failed{TWO}\n\nW other\n"
    assert [record["ts"] for record in log_records(text)] == ["1", "2"]


def test_one_that_is_being_written_is_not_there_yet() -> None:
    assert [record["ts"] for record in log_records(f"{ONE}\n{TWO[:-3]}")] == ["1"]
    assert log_records("") == []
