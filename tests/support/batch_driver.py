"""A driver of a batch job in a process of its own: `python -m tests.support.batch_driver ADDRESS OPTIONS`."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from serving.batch.job import BatchDone, run_job
from serving.batch.progress import LinePrinter, Progress
from serving.batch.sinks import CsvSink, JsonlSink, ParquetSink
from serving.batch.sources import CsvSource, FolderSource, JsonlSource, ParquetSource, Source
from serving.errors import MeshError

if TYPE_CHECKING:
    from ray.data import Dataset

_SOURCES = {"jsonl": JsonlSource, "csv": CsvSource, "parquet": ParquetSource}
_SINKS = {"jsonl": JsonlSink, "csv": CsvSink, "parquet": ParquetSink}


class Doubling:
    """`n` becomes `doubled`. Each row that is computed is told in a file of the process, before it is given.

    Rows from `hold_from` on wait for the file `go`: whoever is to meet a job under way cannot come too late.
    """

    def __init__(self, told: str, seconds_per_row: float, hold_from: int, go: str) -> None:
        self._path = Path(told) / f"{os.getpid()}-{uuid.uuid4().hex}"
        self._seconds = seconds_per_row
        self._hold_from = hold_from
        self._go = Path(go)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        numbers = [int(n) for n in batch["n"]]
        for _ in numbers:
            time.sleep(self._seconds)
        while max(numbers) >= self._hold_from and not self._go.exists():
            time.sleep(0.1)
        with self._path.open("a") as stream:
            stream.write("".join(f"{n}\n" for n in numbers))
        return {**batch, "doubled": [2 * n for n in numbers]}


def _lose_the_identifier(batch: dict[str, Any]) -> dict[str, Any]:
    return {"n": batch["n"]}


def _fail(batch: dict[str, Any]) -> dict[str, Any]:
    raise ValueError(f"no work for {len(batch)} columns")


_FAULTS = {"loses the identifier": _lose_the_identifier, "fails": _fail}


def main(address: str, options: dict[str, Any]) -> int:
    ray.init(address=address, namespace="batch", log_to_driver=False, logging_level="error")
    stop = threading.Event()
    printer = LinePrinter(sys.stdout, machine=True)

    def told(progress: Progress) -> None:
        printer(progress)
        if progress.rows >= options.get("stop_at", sys.maxsize):
            stop.set()

    def work(rows: Dataset) -> Dataset:
        if "fault" in options:
            return rows.map_batches(_FAULTS[options["fault"]])
        return rows.map_batches(
            Doubling,
            fn_constructor_args=(
                options["told"],
                options.get("seconds_per_row", 0.0),
                options.get("hold_from", sys.maxsize),
                options.get("go", ""),
            ),
            batch_size=options.get("batch_size", 32),
            concurrency=2,
        )

    def batch_done(batch: BatchDone) -> None:
        print(json.dumps({"batch": batch.key, "output": batch.outputs[0], "count": batch.counts.rows}), flush=True)

    kind = options.get("kind", "jsonl")
    source: Source = _SOURCES[kind](options["source"], identifier=options.get("identifier", ""))
    if options.get("grows"):
        source = FolderSource(JsonlSource(options["source"]), poll_s=0.2, max_files=2)
    try:
        report = run_job(
            source,
            work,
            _SINKS[options.get("sink_kind", kind)](options["output"]),
            options["folder"],
            commit_every_s=options.get("commit_every_s", 0.3),
            block_rows=options.get("block_rows", 64),
            on_progress=told,
            on_batch=batch_done,
            stop=stop,
            disk_wait_s=options.get("disk_wait_s", 600.0),
        )
    except MeshError as error:
        print(json.dumps({"error": type(error).__name__, "message": error.message}), flush=True)
        return 1
    print(
        json.dumps({"report": {"state": report.state, "rows": report.counts.rows, "computed": report.computed}}),
        flush=True,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], json.loads(sys.argv[2])))
