"""What people and machines are told of a job."""

from __future__ import annotations

import io
import json
from dataclasses import replace

from prometheus_client import CollectorRegistry

from serving.batch.checkpoint import Counts
from serving.batch.instruments import JobMetrics
from serving.batch.progress import LinePrinter, Progress, Rate, text_of

_NOW = Progress("j", "running", 1, 500, 20, 2000, 3, 1000, 4000, 50.0, 250.0, 30.0, 10.0)


def test_a_line_says_all_of_it() -> None:
    line = text_of(_NOW)
    assert line == "running · 500 of about 2,000 rows (25%) · 50.0 rows/s · 250 tokens/s · 30 s left · 3 failed"
    unknown = replace(_NOW, total=None, left_s=None, errors=0, tokens_per_s=0.0, state="disk_full", detail="/x: full")
    assert text_of(unknown) == "disk full · 500 rows · 50.0 rows/s · /x: full"
    assert "2 h 03 min left" in text_of(replace(_NOW, left_s=7384.0))
    assert "1 min 05 s left" in text_of(replace(_NOW, left_s=65.0))


def test_machines_get_json_and_people_few_lines() -> None:
    machine, people = io.StringIO(), io.StringIO()
    for printer in (LinePrinter(machine, machine=True), LinePrinter(people)):
        for rows in (1, 2, 3):
            printer(replace(_NOW, rows=rows))
        printer(replace(_NOW, state="finished"))
    assert [json.loads(line)["rows"] for line in machine.getvalue().splitlines()] == [1, 2, 3, 500]
    assert len(people.getvalue().splitlines()) == 2


def test_a_rate_is_of_the_last_minute() -> None:
    now = 0.0
    rate = Rate(lambda: now)
    for second in range(1, 301):
        now = float(second)
        rate.add(Counts(rows=second * 10 if second <= 200 else 2000 + (second - 200) * 2, prompt_tokens=second))
    rows_per_s, tokens_per_s = rate.per_second()
    assert abs(rows_per_s - 2.0) < 0.2
    assert abs(tokens_per_s - 1.0) < 0.1
    assert rate.elapsed_s == 300.0


def test_metrics_count_what_was_committed() -> None:
    registry = CollectorRegistry()
    metrics = JobMetrics(registry)
    metrics(_NOW)
    metrics(replace(_NOW, rows=700, errors=5, completion_tokens=4400))
    metrics(replace(_NOW, job="k", rows=7, errors=0))

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, labels)

    assert value("mesh_batch_job_rows_total", outcome="ok") == 700 - 500 - 2
    assert value("mesh_batch_job_rows_total", outcome="failed") == 2
    assert value("mesh_batch_job_tokens_total", kind="completion") == 400
    assert value("mesh_batch_job_rows_per_second") == 50.0
