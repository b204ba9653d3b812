"""Records as JSON lines and as text, and the numbers of controllers."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.control import Controller, Done, ManualClock, Outcome, Retry
from serving.errors import FailedPrecondition, InvalidArgument
from serving.observe import ControllerCollector, MetricsServer, configure_logging, get_logger, log_fields, new_registry
from serving.observe.logging import JsonFormatter


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    level = logging.getLogger().level
    yield
    configure_logging(stream=io.StringIO())
    logging.captureWarnings(False)
    logging.getLogger().setLevel(level)


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_record_is_one_json_object_with_all_its_keys() -> None:
    stream = io.StringIO()
    configure_logging(stream=stream, process="keeper")
    with log_fields(app="default/digits", cluster="west"):
        get_logger("a.b").warning("lease lost", lease="4f", cluster="east", ttl_s=2.5, nothing=None)
    logging.getLogger("c").info("plain %d", 3, extra={"key": "k"})
    first, second = lines(stream)
    assert {name: first[name] for name in first if name != "ts"} == {
        "level": "warning",
        "msg": "lease lost",
        "process": "keeper",
        "app": "default/digits",
        "cluster": "east",
        "lease": "4f",
        "ttl_s": 2.5,
        "logger": "a.b",
    }
    assert str(first["ts"]).endswith("Z")
    assert (second["msg"], second["key"]) == ("plain 3", "k")
    assert "app" not in second


def test_what_other_libraries_note_on_records_is_not_logged() -> None:
    before = logging.getLogRecordFactory()

    def noting(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = before(*args, **kwargs)
        record.__dict__["_ray_timestamp_ns"] = 1  # as Ray does, once a process has imported its logging
        return record

    logging.setLogRecordFactory(noting)
    try:
        stream = io.StringIO()
        configure_logging(stream=stream)
        get_logger("a").info("text", key="k")
    finally:
        logging.setLogRecordFactory(before)
    (record,) = lines(stream)
    assert set(record) == {"ts", "level", "msg", "key", "logger"}


def test_errors_carry_their_trace_in_the_same_line() -> None:
    stream = io.StringIO()
    configure_logging(stream=stream)
    try:
        raise ValueError("two\nlines")
    except ValueError:
        get_logger("a").exception("failed", part="x")
    (record,) = lines(stream)
    assert "ValueError: two\nlines" in str(record["error_trace"])
    assert record["level"] == "error"


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.builds(object),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.text(), st.dictionaries(st.text(min_size=1), values, max_size=4))
def test_whatever_is_logged_is_one_line_of_json(message: str, fields: dict[str, object]) -> None:
    record = logging.makeLogRecord({"msg": message, "levelno": logging.INFO, "name": "n", "mesh_fields": fields})
    line = JsonFormatter({"process": "p"}).format(record)
    assert "\n" not in line
    parsed = json.loads(line)
    assert parsed["msg"] == message
    assert parsed["level"] == "info"


def test_keys_cannot_take_the_place_of_the_frame() -> None:
    stream = io.StringIO()
    configure_logging(stream=stream)
    get_logger("a").info("text", ts="yesterday", logger="me")
    (record,) = lines(stream)
    assert (record["ts_"], record["logger_"], record["logger"]) == ("yesterday", "me", "a")


def test_text_for_people() -> None:
    stream = io.StringIO()
    configure_logging(stream=stream, style="text")
    get_logger("a.b").info("endpoint registered", lease="4f", why="two words")
    assert stream.getvalue().rstrip().endswith('INFO    endpoint registered  lease=4f  why="two words"  (a.b)')


def test_levels_and_files(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "log"
    configure_logging(level="warning", file=path)
    get_logger("a").info("not this")
    get_logger("a").warning("this")
    configure_logging(level="debug", file=path)  # again: the first file is closed, nothing comes twice
    get_logger("a").debug("and this")
    assert [json.loads(line)["msg"] for line in path.read_text().splitlines()] == ["this", "and this"]
    with pytest.raises(InvalidArgument, match="debug, info, warning, error"):
        configure_logging(level="loud")
    with pytest.raises(FailedPrecondition, match="cannot write the log"):
        configure_logging(file=path / "below a file")


async def test_controllers_are_shown_on_a_page_of_their_own() -> None:
    async def reconcile(key: str) -> Outcome:
        return Retry("x") if key == "bad" else Done()

    controller: Controller[str] = Controller("keeper", reconcile, clock=ManualClock())
    controller.wake("good")
    controller.wake("bad")
    task = asyncio.create_task(controller.run())
    while sum(controller.stats.runs.values()) < 2:  # noqa: ASYNC110 - there is no event for it
        await asyncio.sleep(0)
    registry = new_registry()
    ControllerCollector(registry).add(controller)
    server = MetricsServer(registry)
    address = await server.start()
    assert address.startswith("127.0.0.1:")
    page = await asyncio.to_thread(
        lambda: urllib.request.urlopen(f"http://{address}/metrics", timeout=30).read().decode()
    )
    assert 'mesh_controller_runs_total{controller="keeper",outcome="done"} 1.0' in page
    assert 'mesh_controller_failing{controller="keeper"} 1.0' in page
    assert 'mesh_controller_run_seconds_count{controller="keeper"} 2.0' in page
    assert "process_resident_memory_bytes" in page
    taken = MetricsServer(registry, port=int(address.rpartition(":")[2]))
    with pytest.raises(FailedPrecondition, match="cannot serve metrics"):
        await taken.start()
    await server.close()
    await server.close()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
