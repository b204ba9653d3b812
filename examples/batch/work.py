"""The job itself, which may be killed at any moment and started again: `python -m examples.batch.work --help`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import ray

from examples.batch.asking import Asker
from serving.batch.job import run_job
from serving.batch.progress import LinePrinter
from serving.batch.sinks import JsonlSink
from serving.batch.sources import JsonlSource
from serving.errors import MeshError

if TYPE_CHECKING:
    from ray.data import Dataset


def main() -> int:
    parser = argparse.ArgumentParser(description="Asks the tiny chat model every question of a file, each once.")
    parser.add_argument("folder", type=Path, help="with in.jsonl; out.jsonl and the job's own folder are made there")
    parser.add_argument("--gateway", default="http://127.0.0.1:8000")
    parser.add_argument("--model", default="tiny-chat")
    parser.add_argument("--json", action="store_true", help="progress for machines")
    options = parser.parse_args()
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="error")

    def pipeline(rows: Dataset) -> Dataset:
        return rows.map_batches(
            Asker, fn_constructor_args=(options.gateway, options.model), batch_size=64, concurrency=2
        )

    try:
        report = run_job(
            JsonlSource(options.folder / "in.jsonl", identifier="id"),
            pipeline,
            JsonlSink(options.folder / "out.jsonl"),
            options.folder / "job",
            commit_every_s=1.0,
            block_rows=128,
            on_progress=LinePrinter(sys.stdout, machine=options.json),
        )
    except MeshError as error:
        print(error.message, file=sys.stderr)
        return 1
    print(f"{report.state}: {report.counts.rows:,} rows, {report.computed:,} of them in this run", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
