"""A job over many questions: killed twice on the way, its Ray cluster too, started again, and checked row by row."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from examples.batch.questions import faults, known_answers, report, rows
from serving.sdk import Connection

_ROOT: Final = Path(__file__).resolve().parents[2]
_COMMITS: Final = 30
_STARTS: Final = 5


def run(folder: Path, count: int, *, kill_at: int | None) -> str:
    """The job, killed when it has committed so many rows; whatever ends it before, it is started again.

    Returns its last word.
    """
    for _ in range(_STARTS):
        last = _started(folder, count, kill_at)
        if last:
            return last
        print("it ended with an error, and is started again", flush=True)
    raise SystemExit(f"the job failed {_STARTS} times")


def _started(folder: Path, count: int, kill_at: int | None) -> str:
    """Empty: it has failed."""
    commits = str(max(1, min(1000, count // _COMMITS)))
    command = [sys.executable, "-m", "examples.batch.work", str(folder), "--json", "--commit-rows", commits]
    last = ""
    with subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if not line.startswith("{"):
                last = line.strip() if line.startswith("finished") else last
                continue
            committed = json.loads(line)["rows"]
            if committed >= count and kill_at is not None:
                raise SystemExit("the job had ended before it could be killed: ask for more rows")
            if kill_at is not None and committed >= kill_at:
                process.kill()
                return f"killed when {committed:,} rows were committed"
    return "" if process.returncode else last


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--full", action="store_true", help="100,000 rows")
    options = parser.parse_args()
    count = 100_000 if options.full else options.rows
    folder = Path(tempfile.mkdtemp(prefix="mesh-batch-"))
    (folder / "in.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows(count)))
    known = known_answers(f"http://{Connection.from_env().gateway}")
    print(f"{len(known)} questions asked once: their answers must come again in {count:,} rows", flush=True)
    began = time.monotonic()
    for number in range(options.kills + 1):
        kill_at = count * (number + 1) // (options.kills + 1) if number < options.kills else None
        print(run(folder, count, kill_at=kill_at), flush=True)
    took_s = time.monotonic() - began
    wrong = faults(_answers(folder / "out.jsonl"), count, known)
    if wrong:
        report(wrong, folder)
    shutil.rmtree(folder)
    print(f"{count:,} rows, each once, each with its right answer, in {took_s:,.0f} s ({count / took_s:,.0f} rows/s)")
    return 0


def _answers(path: Path) -> Iterator[dict[str, object]]:
    with path.open() as lines:
        for line in lines:
            yield json.loads(line)


if __name__ == "__main__":
    sys.exit(main())
