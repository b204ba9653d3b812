"""What `mesh batch` is made of, without a gateway."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from serving.batch.progress import text_of
from serving.cli.batch_following import BatchProgress
from serving.cli.batch_lines import checked_input, write_rest
from serving.cli.batch_options import Asked
from serving.cli.batch_text import one_batch, row
from serving.cli.gateway_calls import Address
from serving.cli.options import Settings
from serving.errors import DataLoss, InvalidArgument, Unavailable

Run = Callable[..., Result]
NOW_S = 2_000_000.0


def batch(**changes: Any) -> dict[str, Any]:
    """As a gateway tells it."""
    ends: dict[str, Any] = dict.fromkeys(("completed_at", "failed_at", "expired_at", "cancelled_at"))
    return {
        "id": "batch_1",
        "status": "in_progress",
        "endpoint": "/v1/completions",
        "model": None,
        "input_file_id": "file-1",
        "output_file_id": None,
        "error_file_id": None,
        "completion_window": "24h",
        "created_at": int(NOW_S) - 300,
        "expires_at": int(NOW_S) + 5400,
        "request_counts": {"total": 40, "completed": 8, "failed": 2},
        "usage": {"input_tokens": 1500, "output_tokens": 20, "total_tokens": 1520},
        "errors": None,
        "metadata": None,
        **ends,
        **changes,
    }


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://gateway:8000", "http://gateway:8000"),
        ("https://gateway/v1/", "https://gateway"),
        ("127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://[::1]:8000/behind/v1", "http://[::1]:8000/behind"),
    ],
)
def test_addresses(text: str, url: str) -> None:
    assert Address.of(text).url == url


@pytest.mark.parametrize(
    "text", ["ftp://x", "http://", "http://x:99999", "http://x/?a=b", "http://me:pw@x", "http://x:0"]
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(InvalidArgument, match="no address"):
        Address.of(text)


def test_the_key_is_in_a_file_or_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings("", None, None, as_json=False, debug=False)
    monkeypatch.setenv("MESH_API_KEY", "mesh_of_environment")
    assert Asked(settings, "x:1", None).address().key == "mesh_of_environment"
    file = tmp_path / "key"
    file.write_text("mesh_of_file\n")
    address = Asked(settings, "x:1", file).address()
    assert address.key == "mesh_of_file"
    assert "mesh_of_file" not in repr(address)
    for content in (b"two words", "schlüssel".encode(), b"\xff"):
        file.write_bytes(content)
        with pytest.raises(InvalidArgument):
            Asked(settings, "x:1", file).address()


def test_a_mesh_that_does_not_say_where_its_gateway_is(tmp_path: Path) -> None:
    (tmp_path / "mesh.json").write_text(
        json.dumps({"version": 1, "etcd": {"endpoints": ["x:1"]}, "artifacts": str(tmp_path)})
    )
    settings = Settings("", tmp_path, None, as_json=False, debug=False)
    with pytest.raises(Unavailable, match="--gateway"):
        Asked(settings, "", None).address()


def test_a_batch_for_people() -> None:
    assert one_batch(batch(metadata={"b": "2", "a": "1"}), NOW_S).splitlines() == [
        "batch_1  in_progress",
        "  endpoint  /v1/completions",
        "  requests  8 of 40 have an answer, 2 failed",
        "  tokens    1,500 in, 20 out",
        "  created   5m ago",
        "  window    24h, 1 h 30 min left",
        "  input     file-1",
        "  metadata  a=1, b=2",
    ]
    waits = one_batch(batch(mode="own", application="batch-1", message="no room"), NOW_S).splitlines()
    assert waits[-3:] == ["  mode      own", "  runs in   batch-1", "  waits     no room"]
    assert row(batch(), NOW_S) == ("batch_1", "in_progress", "10/40", 2, "/v1/completions", "5m ago", "-")
    faults = {"data": [{"code": "c", "message": f"wrong {n}", "param": None, "line": n or None} for n in range(22)]}
    shown = one_batch(batch(status="failed", failed_at=int(NOW_S) - 10, errors=faults), NOW_S).splitlines()
    assert shown[-1] == "  and 2 more"
    assert ("  wrong 0" in shown, "  line 3: wrong 3" in shown) == (True, True)
    assert "  window    24h, ended 10s ago" in shown
    broken = one_batch(batch(attempts=3, last_failure="the disk is full"), NOW_S)
    assert "\n  attempts  3 broke without progress, the last one: the disk is full\n" in broken
    assert "\n  attempts  1 broke without progress\n" in one_batch(batch(attempts=1, last_failure=None), NOW_S)
    assert "attempts" not in one_batch(batch(attempts=0, last_failure=None), NOW_S)


def test_rates_are_of_what_was_done_since_it_is_followed() -> None:
    now = [100.0]
    progress = BatchProgress(lambda: now[0])
    counts = {"total": 1000, "completed": 400, "failed": 0}
    assert progress.of(batch(request_counts=counts)).rows_per_s == 0
    now[0] += 10.0
    usage = {"input_tokens": 1600, "output_tokens": 120, "total_tokens": 1720}
    told = progress.of(batch(request_counts={**counts, "completed": 590, "failed": 10}, usage=usage), "a detail")
    assert (told.rows, told.errors, told.rows_per_s, told.tokens_per_s, told.left_s) == (600, 10, 20.0, 20.0, 20.0)
    assert text_of(told) == (
        "in progress · 600 of about 1,000 rows (60%) · 20.0 rows/s · 20 tokens/s · 20 s left · 10 failed · a detail"
    )
    now[0] += 10.0
    assert progress.of(batch(request_counts={**counts, "completed": 100})).rows_per_s == 0  # a runner that began again


def lines(path: Path, *values: Any) -> Path:
    path.write_text("".join(f"{json.dumps(value)}\n" for value in values))
    return path


def test_what_is_left_keeps_its_bytes_and_its_order(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_bytes(b'{"custom_id": "a", "x": "\\u00fc"}\r\n\n{"custom_id":"b"}\n{"custom_id": "c"}')
    done = lines(tmp_path / "out.jsonl", {"custom_id": "b", "response": {"status_code": 200}})
    failed = lines(
        tmp_path / "err.jsonl",
        {"custom_id": "c", "response": {"status_code": 404}},
        {"custom_id": "a", "response": None, "error": {"code": "batch_expired"}},
    )
    rest = tmp_path / "rest.jsonl"
    left = write_rest(source, (done, failed), rest, also_refused=False)
    assert (left.lines, left.refused, left.total) == (1, 1, 3)
    assert rest.read_bytes() == b'{"custom_id": "a", "x": "\\u00fc"}\n'
    left = write_rest(source, (done, failed), rest, also_refused=True)
    assert (left.lines, left.refused) == (2, 0)
    assert rest.read_bytes().endswith(b'{"custom_id": "c"}\n')


@pytest.mark.parametrize("line", ["{", "[]", "{}", "\x00"])
def test_an_output_that_is_none_is_not_read_as_answers(tmp_path: Path, line: str) -> None:
    source = lines(tmp_path / "in.jsonl", {"custom_id": "a"})
    (tmp_path / "out.jsonl").write_text(f"\n{line}\n")
    with pytest.raises(DataLoss, match=r"out\.jsonl:2"):
        write_rest(source, (tmp_path / "out.jsonl",), tmp_path / "rest", also_refused=False)


def test_the_endpoint_of_a_file_is_that_of_its_first_request(tmp_path: Path) -> None:
    request = {"custom_id": "a", "method": "POST", "url": "/v1/responses", "body": {"model": "m"}}
    path = tmp_path / "in.jsonl"
    path.write_text(f"\n\n{json.dumps(request)}\n")
    endpoint, report = checked_input(path, "")
    assert (endpoint, report.total, report.models) == ("/v1/responses", 1, ("m",))
    path.write_text("\n".join(["[]"] * 12))
    with pytest.raises(InvalidArgument, match="nothing was sent") as refused:
        checked_input(path, "")
    told = refused.value.message.splitlines()
    assert [line.partition(": ")[0] for line in told[1:-1]] == [f"  {path}:{number}" for number in range(1, 11)]
    assert told[-1] == "  and 2 more"
    path.write_text("\n")
    with pytest.raises(InvalidArgument, match="jsonl: the file has no requests"):
        checked_input(path, "")


def test_help_of_the_commands(run: Run) -> None:
    said = run("batch", "--help").stdout
    for word in ("submit", "list", "show", "cancel", "resume", "download"):
        assert f"  {word} " in said
        one = run("batch", word, "--help").stdout
        for text in ("--gateway URL", "MESH_GATEWAY", "--api-key-file", "MESH_API_KEY", "--json", "Exit codes:"):
            assert text in one, f"{word}: {text}"
    assert run("batch", "submit", "x", "--metadata", "novalue", "--gateway", "x:1").exit_code == 2
    same = run("batch", "download", "x", "-o", "a", "--errors", "a", "--gateway", "x:1")
    assert (same.exit_code, "same file" in same.stderr) == (2, True)
