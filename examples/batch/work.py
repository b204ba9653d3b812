"""The job itself, which may be killed at any moment and started again: `python -m examples.batch.work --help`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import ray

from examples.batch.questions import MODEL, SAMPLING
from serving.batch import Discovered, LLMProcessor, ProcessorConfig
from serving.batch.job import run_job
from serving.batch.progress import LinePrinter
from serving.batch.sinks import JsonlSink
from serving.batch.sources import JsonlSource
from serving.errors import MeshError
from serving.sdk import Connection


def main() -> int:
    parser = argparse.ArgumentParser(description="Asks the tiny chat model every question of a file, each once.")
    parser.add_argument("folder", type=Path, help="with in.jsonl; out.jsonl and the job's own folder are made there")
    parser.add_argument("--commit-rows", type=int, default=1000, help="rows that are made sure of together")
    parser.add_argument("--json", action="store_true", help="progress for machines")
    options = parser.parse_args()
    ray.init(include_dashboard=False, log_to_driver=False, logging_level="error", **_cluster())
    target = Discovered(Connection.from_env().etcd, model=MODEL)
    processor = LLMProcessor(ProcessorConfig(target, task="chat", sampling=SAMPLING))
    try:
        report = run_job(
            JsonlSource(options.folder / "in.jsonl", identifier="id"),
            processor,
            JsonlSink(options.folder / "out.jsonl"),
            options.folder / "job",
            commit_every_s=1.0,
            commit_rows=options.commit_rows,
            block_rows=128,
            on_progress=LinePrinter(sys.stdout, machine=options.json),
        )
    except MeshError as error:
        print(error.message, file=sys.stderr)
        return 1
    print(f"{report.state}: {report.counts.rows:,} rows, {report.computed:,} of them in this run", flush=True)
    print(processor.report(), flush=True)
    return 0


def _cluster() -> dict[str, Any]:
    """The Ray cluster of `$RAY_ADDRESS`, or one of this process, which ends with it."""
    return {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": 4}


if __name__ == "__main__":
    sys.exit(main())
