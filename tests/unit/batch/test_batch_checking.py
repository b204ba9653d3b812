"""What of an input file is refused: the line, the field, the code; within bounds, for any bytes."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.batch.checking import InputLimits, InputReport, check_input

CHAT = "/v1/chat/completions"
SMALL = InputLimits(requests=5, line_bytes=400, models=2, inputs=3, faults=3)


def line(custom_id: str = "a", body: Any = None, **fields: Any) -> dict[str, Any]:
    made = {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body or {"model": "m", "messages": []}}
    return {name: value for name, value in (made | fields).items() if value != "left out"}


def checked(*lines: Any, endpoint: str = CHAT, limits: InputLimits = SMALL, end: str = "\n") -> InputReport:
    data = "".join((one if isinstance(one, str) else json.dumps(one)) + end for one in lines)
    return check_input(io.BytesIO(data.encode()), endpoint, limits)


def test_a_file_without_faults() -> None:
    lines = [line("a"), line("b", {"model": "n"}), "", "  ", line("c")]
    for end in ("\n", "\r\n"):
        assert checked(*lines, end=end) == InputReport(3, ("m", "n"), (), 0)
    whole = "\n".join(json.dumps(one) for one in (line("a"), line("b")))
    assert check_input(io.BytesIO(whole.encode()), CHAT).total == 2  # without a last end of line


@pytest.mark.parametrize(
    ("wrong", "code", "param"),
    [
        ("{", "invalid_json_line", ""),
        ("[]", "invalid_json_line", ""),
        ('{"custom_id": NaN}', "invalid_json_line", ""),
        ("[" * 300, "invalid_json_line", ""),
        (line(custom_id="left out"), "missing_required_parameter", "custom_id"),
        (line(custom_id=""), "invalid_custom_id", "custom_id"),
        (line("first"), "duplicate_custom_id", "custom_id"),
        (line(custom_id=7), "invalid_type", "custom_id"),  # type: ignore[arg-type]
        (line(method="left out"), "missing_required_parameter", "method"),
        (line(method="GET"), "invalid_method", "method"),
        (line(url="/v1/embeddings"), "invalid_url", "url"),
        (line(url=None), "missing_required_parameter", "url"),
        (line(body="text"), "invalid_type", "body"),
        (line(body=[1]), "invalid_type", "body"),
        (line(body={"messages": []}), "missing_required_parameter", "body.model"),
        (line(body={"model": ""}), "invalid_model", "body.model"),
        (line(body={"model": "m", "stream": True}), "unsupported_parameter", "body.stream"),
        (line(body={"model": "m", "background": True}), "unsupported_parameter", "body.background"),
        (line(body={"model": "m", "x": "y" * 400}), "line_too_long", ""),
    ],
)
def test_a_wrong_line_is_named(wrong: Any, code: str, param: str) -> None:
    report = checked(line("first"), "", wrong, line("last"))
    assert report.total == 3
    assert [(one.line, one.code, one.param) for one in report.faults] == [(3, code, param)]
    assert report.faults[0].message
    assert report.fault_count == 1


def test_a_file_without_requests() -> None:
    for data in (b"", b"\n\n  \n"):
        report = check_input(io.BytesIO(data), CHAT)
        assert [(one.line, one.code) for one in report.faults] == [(0, "empty_file")]


def test_bounds() -> None:
    assert checked(*(line(str(n)) for n in range(5))).fault_count == 0
    report = checked(*(line(str(n)) for n in range(9)))
    assert (report.total, report.faults[0].line, report.faults[0].code) == (5, 6, "too_many_requests")
    report = checked(*(line(str(n), {"model": str(n)}) for n in range(3)))
    assert [(one.line, one.code) for one in report.faults] == [(3, "too_many_models")]
    report = checked(*["{"] * 5)
    assert (len(report.faults), report.fault_count) == (3, 5)


def test_texts_to_embed_are_counted() -> None:
    def body(n: int, value: Any) -> dict[str, Any]:
        return line(str(n), {"model": "m", "input": value}, url="/v1/embeddings")

    values: list[Any] = ["one", [1, 2, 3, 4], ["three"]]
    lines = [body(n, value) for n, value in enumerate(values)]
    assert checked(*lines, endpoint="/v1/embeddings").fault_count == 0
    report = checked(*lines, body(3, ["four"]), endpoint="/v1/embeddings")
    assert [(one.line, one.code) for one in report.faults] == [(4, "too_many_inputs")]


def test_a_line_that_is_too_long_does_not_hide_the_next_one() -> None:
    for extra in range(-4, 5):
        base = len(json.dumps(line("a", {"model": ""})))
        long = line("a", {"model": "m" * (400 - base + extra)})
        report = checked(long, "{", line("b"), limits=InputLimits(line_bytes=400))
        assert [one.code for one in report.faults] == ["line_too_long"] * (extra > 0) + ["invalid_json_line"]
        assert report.total == 3


@given(st.binary(max_size=3000))
def test_any_bytes_are_answered(data: bytes) -> None:
    report = check_input(io.BytesIO(data), CHAT, SMALL)
    assert report.fault_count >= 1  # nothing of these is a request
    assert len(report.faults) <= SMALL.faults
    assert all(0 <= one.line <= data.count(b"\n") + 1 for one in report.faults)


@given(st.lists(st.text(min_size=1, max_size=5), max_size=5))
def test_an_id_is_a_duplicate_where_it_stood_before(ids: list[str]) -> None:
    ids = [one for one in ids if one.isprintable()]
    report = checked(line("first"), *(line(one) for one in ids), limits=InputLimits())
    seen = {"first"}
    wanted = []
    for number, one in enumerate(ids, start=2):
        if one in seen:
            wanted.append(number)
        seen.add(one)
    assert [one.line for one in report.faults] == wanted
