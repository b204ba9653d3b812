"""Traces that are really written, beside those of `tritonserver`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.contract.corpus_control import trace
from tests.contract.corpus_infer import numbers
from tests.contract.exchange import Step, infer, send, stream
from tests.contract.pairs import Pair
from tests.integration.ingress.kserve_servers import KServeProcess
from tests.support.waiting import eventually

Records = list[dict[str, Any]]
EVERYTHING_BACK = dict.fromkeys(("trace_level", "trace_rate", "trace_count", "log_frequency"), ())
# Here a message is there as a whole when its call begins.
ONLY_THEIRS = {"GRPC_WAITREAD_START"}
REQUESTS = {
    "one model": infer(numbers("id_fp32", [1.5, -2], "r")),
    "without an id": infer(numbers("id_fp32", [1])),
    "an ensemble": infer(numbers("chain", [1, 2], "e")),
    "decoupled": stream(numbers("repeat", [1, 2], "d")),
    "an error": infer(numbers("failing", [1])),
}


@pytest.fixture
def traced(pair: Pair) -> Iterator[Pair]:
    """The pair without old traces; afterwards nothing is traced any more."""
    for folder in pair.traces.values():
        for file in folder.iterdir():
            file.unlink()
    yield pair
    for server in (pair.ours, pair.theirs):
        assert send(server, trace(**EVERYTHING_BACK)).code == "OK"


def whole_files(folder: Path) -> list[Records]:
    """The traces of each file that is written to its end, oldest first."""
    found = []
    for file in sorted(folder.iterdir(), key=lambda file: file.stat().st_mtime_ns):
        try:
            found.append(json.loads(file.read_text()))
        except json.JSONDecodeError:
            continue
    return found


def what_happened(records: Records) -> dict[tuple[object, ...], set[object]]:
    """By execution (model, version, request, has a parent) what was reported of it, without numbers and times."""
    about = {record["id"]: record for record in records if "model_name" in record}
    happened: dict[tuple[object, ...], set[object]] = {}
    for record in records:
        first = about[record["id"]]
        who = (first["model_name"], first["model_version"], first.get("request_id"), "parent_id" in first)
        reports = happened.setdefault(who, set())
        reports |= {stamp["name"] for stamp in record.get("timestamps", ())} - ONLY_THEIRS
        if "tensor" in record:
            reports.add((record["activity"], *sorted(record["tensor"].items())))
    return happened


def trace_of(server: KServeProcess, folder: Path, step: Step, levels: Sequence[str]) -> Records:
    assert send(server, trace(trace_level=levels, trace_rate=["1"], trace_count=["1"])).code == "OK"
    send(server, step)
    return eventually(lambda: whole_files(folder), timeout_s=60, what=f"a trace in {folder}")[0]


@pytest.mark.parametrize("name", REQUESTS)
def test_timestamps(name: str, traced: Pair) -> None:
    ours = trace_of(traced.ours, traced.traces["ours"], REQUESTS[name], ["TIMESTAMPS"])
    theirs = trace_of(traced.theirs, traced.traces["theirs"], REQUESTS[name], ["TIMESTAMPS"])
    assert what_happened(ours) == what_happened(theirs)
    assert all(stamp["ns"] > 0 for record in ours for stamp in record.get("timestamps", ()))


@pytest.mark.parametrize("name", ["one model", "an ensemble"])
def test_tensors(name: str, traced: Pair) -> None:
    ours = trace_of(traced.ours, traced.traces["ours"], REQUESTS[name], ["TIMESTAMPS", "TENSORS"])
    theirs = trace_of(traced.theirs, traced.traces["theirs"], REQUESTS[name], ["TIMESTAMPS", "TENSORS"])
    assert what_happened(ours) == what_happened(theirs)


def test_rate_and_count(traced: Pair) -> None:
    for name, server in (("ours", traced.ours), ("theirs", traced.theirs)):
        settings = {"trace_level": ["TIMESTAMPS"], "trace_rate": ["3"], "log_frequency": ["2"], "trace_count": ["4"]}
        assert send(server, trace(**settings)).code == "OK"
        for number in range(20):
            assert send(server, infer(numbers("id_fp32", [1], f"{number}"))).code == "OK"
        folder = traced.traces[name]
        files = eventually(
            lambda folder=folder: [f for f in whole_files(folder) if f][1:] and whole_files(folder),
            timeout_s=60,
            what=name,
        )
        traced_requests = [[r["request_id"] for r in records if "model_name" in r] for records in files]
        assert traced_requests == [["2", "5"], ["8", "11"]], name


def test_one_file_until_the_setting_changes(traced: Pair) -> None:
    server, folder = traced.ours, traced.traces["ours"]
    assert send(server, trace(trace_level=["TIMESTAMPS"], trace_rate=["1"])).code == "OK"
    for number in range(5):
        assert send(server, infer(numbers("id_fp32", [1], f"{number}"))).code == "OK"
    assert list(folder.iterdir()) == []
    assert send(server, trace(trace_level=["OFF"])).code == "OK"

    def written() -> Records:
        """As far as it is written, whole records only."""
        text = (folder / "trace.json").read_text() if (folder / "trace.json").exists() else ""
        try:
            records: Records = json.loads(text + "]")  # the array ends with the server
        except json.JSONDecodeError:
            return []
        return [record for record in records if "model_name" in record]

    records = eventually(lambda: written()[4:] and written(), timeout_s=60, what="the file")
    assert [file.name for file in folder.iterdir()] == ["trace.json"]
    assert [record["request_id"] for record in records] == list("01234")


def test_a_model_of_its_own(traced: Pair) -> None:
    server, folder = traced.ours, traced.traces["ours"]
    own = {"trace_level": ["TIMESTAMPS"], "trace_rate": ["1"], "log_frequency": ["1"]}
    assert send(server, trace("control_traced", **own)).code == "OK"
    send(server, infer(numbers("id_fp32", [1], "other")))
    send(server, infer(numbers("control_traced", [1], "traced")))
    records = eventually(lambda: whole_files(folder), timeout_s=60, what="the trace")[0]
    assert {record["model_name"] for record in records if "model_name" in record} == {"control_traced"}
    assert send(server, trace("control_traced", **EVERYTHING_BACK)).code == "OK"


def test_the_trace_of_the_caller(traced: Pair) -> None:
    """Kept with the request's own record, and only there; `tritonserver` drops it."""
    header = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    metadata = (("traceparent", header), ("tracestate", "vendor=1"))
    for request in (numbers("id_fp32", [1], "unary"), numbers("chain", [1], "ensemble")):
        for step in (infer(request, metadata=metadata), stream(request, metadata=metadata)):
            for folder in traced.traces.values():
                for file in folder.iterdir():
                    file.unlink()
            ours = trace_of(traced.ours, traced.traces["ours"], step, ["TIMESTAMPS"])
            theirs = trace_of(traced.theirs, traced.traces["theirs"], step, ["TIMESTAMPS"])
            assert what_happened(ours) == what_happened(theirs)
            own = [record for record in ours if "model_name" in record and "parent_id" not in record]
            assert [(record["traceparent"], record["tracestate"]) for record in own] == [(header, "vendor=1")]
            assert sum("traceparent" in record for record in ours) == 1
            assert not any("traceparent" in record for record in theirs)
