"""The same questions through `/v1/batches`, by `mesh batch`: the runner is killed twice on the way, and goes on."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final

from examples.batch.questions import body_of, faults, known_answers, report, rows, text_of
from serving.sdk import Connection, MeshClient

_MOST: Final = 50_000  # requests of a batch
_ENDED: Final = ("completed", "failed", "expired", "cancelled")
_LOOK_S: Final = 0.5
_PATIENCE_S: Final = 120.0


def mesh(*words: str) -> dict[str, Any]:
    """What the command says."""
    done = subprocess.run(_command(words), stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise SystemExit(f"mesh {' '.join(words)} ended with {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def watch(batch: str) -> Iterator[dict[str, Any]]:
    """The batch as it changes, until it has ended."""
    with subprocess.Popen(_command(("batch", "show", batch, "--watch")), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for line in process.stdout:
            yield json.loads(line)["batch"]
    if process.returncode:
        raise SystemExit(f"mesh batch show --watch {batch} ended with {process.returncode}")


def _command(words: tuple[str, ...]) -> list[str]:
    return [sys.executable, "-m", "serving.cli", *words, "--json"]


def submit(folder: Path, count: int) -> list[str]:
    """Orders all rows, in as many batches as that needs. Their ids."""
    lines = (
        {
            "custom_id": str(row["id"]),
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": body_of(row["prompt"], **row["sampling_params"]),
        }
        for row in rows(count)
    )
    batches: list[str] = []
    while some := list(islice(lines, _MOST)):
        file = folder / f"in-{len(batches)}.jsonl"
        file.write_text("".join(f"{json.dumps(line)}\n" for line in some))
        batches.append(mesh("batch", "submit", str(file))["id"])
    return batches


def follow(batch: str, application: str, kill_at: list[int]) -> None:
    """Until it has ended; the runner is killed when so many of its rows are done."""
    runner = runner_of(application) if kill_at else 0
    for now in watch(batch):
        counts = now["request_counts"]
        done = counts["completed"] + counts["failed"]
        if kill_at and now["status"] in _ENDED:
            raise SystemExit(f"{batch} had ended before its runner could be killed: ask for more rows")
        if kill_at and done >= kill_at[0]:
            os.kill(runner, signal.SIGKILL)
            print(f"the runner (pid {runner}) was killed when {done:,} rows of {batch} were done", flush=True)
            kill_at.pop(0)
            runner = runner_of(application, before=runner) if kill_at else 0


def runner_of(application: str, *, before: int = 0) -> int:
    """The process of a runner: `before` was the last one, whose place in discovery may outlive it."""
    until = time.monotonic() + _PATIENCE_S
    with MeshClient(Connection.from_env()) as client:
        while time.monotonic() < until:
            found = [one.pid for one in client.endpoints(application, role="runner") if one.pid != before]
            if found:
                return int(found[0])
            time.sleep(_LOOK_S)
    raise SystemExit(f"{application} has no runner")


def answers(folder: Path, batches: list[str]) -> Iterator[dict[str, Any]]:
    """Each line of the outputs, as the check takes it; of the lines without an answer there are none."""
    for batch in batches:
        output = folder / f"{batch}.jsonl"
        mesh("batch", "download", batch, "--output", str(output), "--errors", str(folder / f"{batch}.errors.jsonl"))
        with output.open() as lines:
            for line in lines:
                answer = json.loads(line)
                yield {"id": int(answer["custom_id"]), "generated_text": text_of(answer["response"]["body"])}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--full", action="store_true", help="100,000 rows")
    parser.add_argument("--application", default="batches", help="that has the runner")
    options = parser.parse_args()
    count = 100_000 if options.full else options.rows
    folder = Path(tempfile.mkdtemp(prefix="mesh-batch-"))
    known = known_answers(f"http://{Connection.from_env().gateway}")
    print(f"{len(known)} questions asked once: their answers must come again in {count:,} rows", flush=True)
    began = time.monotonic()
    batches = submit(folder, count)
    first = min(count, _MOST)
    # Early: counts come every two seconds, in which a fast machine does a thousand rows.
    kill_at = [first * number // (options.kills + 1) + 1 for number in range(options.kills)]
    for batch in batches:
        follow(batch, options.application, kill_at)
    took_s = time.monotonic() - began
    wrong = faults(answers(folder, batches), count, known)
    if wrong:
        report(wrong, folder)
    shutil.rmtree(folder)
    print(f"{count:,} rows, each once, each with its right answer, in {took_s:,.0f} s ({count / took_s:,.0f} rows/s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
