"""A job over many questions: killed twice on the way, its Ray cluster too, started again, and checked row by row."""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Final

from examples.batch.asking import ask_all
from examples.batch.questions import PROMPTS, faults, rows

_SHOWN: Final = 10
_ROOT: Final = Path(__file__).resolve().parents[2]


def run(folder: Path, gateway: str, *, kill_at: int | None) -> int:
    """One run of the job, killed when it has committed so many rows. Returns the rows that are committed."""
    command = [sys.executable, "-m", "examples.batch.work", str(folder), "--gateway", gateway, "--json"]
    with subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        committed = _follow(process.stdout, kill_at)
        if kill_at is not None:
            process.kill()
    if kill_at is None and process.returncode:
        raise SystemExit(f"the job failed with status {process.returncode}")
    return committed


def _follow(lines: IO[str], kill_at: int | None) -> int:
    committed = 0
    for line in lines:
        if not line.startswith("{"):
            continue
        committed = json.loads(line)["rows"]
        if kill_at is not None and committed >= kill_at:
            break
    return committed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--full", action="store_true", help="100,000 rows")
    parser.add_argument("--gateway", default="http://127.0.0.1:8000", help="of a mesh with examples/chat on it")
    options = parser.parse_args()
    count = 100_000 if options.full else options.rows
    folder = Path(tempfile.mkdtemp(prefix="mesh-batch-"))
    (folder / "in.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows(count)))
    known = dict(zip(PROMPTS, asyncio.run(ask_all(options.gateway, "tiny-chat", list(PROMPTS))), strict=True))
    print(f"{len(known)} questions asked once: their answers must come again in {count:,} rows", flush=True)
    for share in (1, 2):
        committed = run(folder, options.gateway, kill_at=count * share // 3)
        print(f"killed when {committed:,} rows were committed", flush=True)
    run(folder, options.gateway, kill_at=None)
    found = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    wrong = faults(found, count, known)
    for fault in wrong[:_SHOWN]:
        print(fault)
    if wrong:
        print(f"{len(wrong):,} faults; what was written is in {folder}")
        return 1
    shutil.rmtree(folder)
    print(f"{len(found):,} rows, each once, each with its right answer")
    return 0


if __name__ == "__main__":
    sys.exit(main())
