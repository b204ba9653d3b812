"""Batch jobs of which anything may be killed, and what must hold then."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from serving.batch.checkpoint import Files
from serving.batch.checkpoint.log import Log
from serving.batch.checkpoint.state import folded
from serving.batch.sinks.lines import JsonlFormat
from serving.local.ray_cluster import RayCluster, RayClusterOptions
from tests.support.batch_parts import write_jsonl
from tests.support.waiting import eventually

ENDS_WITHIN_S = 120.0
OPTIONS = RayClusterOptions(num_cpus=8, object_store_bytes=200 << 20)
ROOT = Path(__file__).parents[3]


class World:
    """One job in a folder: `rows` rows, each of which takes `seconds_per_row`."""

    def __init__(self, folder: Path, rows: int, **options: Any) -> None:
        self.folder = folder
        self.rows = rows
        self.source = folder / "in.jsonl"
        self.output = folder / "out.jsonl"
        self.job = folder / "job"
        self._drivers: list[Driver] = []
        self.options = options
        write_jsonl(self.source, [{"n": n, "text": f"row {n}"} for n in range(rows)])

    def start(self, cluster: RayCluster, **options: Any) -> Driver:
        told = self.folder / f"computed-{self.runs + 1}"
        told.mkdir()
        paths = {"source": str(self.source), "output": str(self.output), "folder": str(self.job), "told": str(told)}
        paths["go"] = str(self.folder / f"go-{self.runs + 1}")
        log = self.folder / f"driver-{self.runs + 1}.log"
        self._drivers.append(Driver(cluster, {**paths, **self.options, **options}, log))
        return self._drivers[-1]

    def release(self, run: int) -> None:
        """Rows that are held are done from here on."""
        (self.folder / f"go-{run}").touch()

    def kill_drivers(self) -> None:
        for driver in self._drivers:
            driver.kill()

    def finished(self) -> set[int]:
        """Rows that are committed now."""
        if not self.job.exists():
            return set()
        files = Files(self.job)
        state = folded(Log(files).read())
        if state.batch is None:
            return set(range(self.rows)) if state.ended or state.batches else set()
        found = [
            row["n"]
            for part in state.batch.parts
            for table in part.tables(JsonlFormat(), files)
            for row in table.to_pylist()
        ]
        assert len(found) == len(set(found)), "a row is committed twice"
        return set(found)

    def computed(self, run: int) -> Counter[int]:
        """Rows that were computed in a run, and how often."""
        told = (self.folder / f"computed-{run}").iterdir()
        return Counter(int(line) for path in told for line in path.read_text().splitlines())

    def check_run(self, before: set[int], run: int) -> None:
        again = before & set(self.computed(run))
        assert not again, f"{len(again)} rows that were finished are computed again"

    def check_output(self) -> None:
        rows = [json.loads(line) for line in self.output.read_text().splitlines()]
        assert Counter(row["n"] for row in rows) == Counter(range(self.rows))
        assert all(row["doubled"] == 2 * row["n"] and row["text"] == f"row {row['n']}" for row in rows)
        assert all(set(row) == {"n", "text", "doubled"} for row in rows)

    @property
    def runs(self) -> int:
        return len(self._drivers)


class Driver:
    """A process that runs the job. What it prints is in a file."""

    def __init__(self, cluster: RayCluster, options: dict[str, Any], log: Path) -> None:
        self._log = log
        command = [sys.executable, "-m", "tests.support.batch_driver", cluster.address, json.dumps(options)]
        with log.open("wb") as stream:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env={**os.environ, **cluster.client_env}, stdout=stream, stderr=subprocess.STDOUT
            )

    def said(self) -> list[dict[str, Any]]:
        lines = self._log.read_text(errors="replace").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def rows(self) -> int:
        return max((line["rows"] for line in self.said() if "rows" in line), default=0)

    def reaches(self, rows: int) -> None:
        def look() -> bool:
            assert self.process.poll() is None or self.rows() >= rows, self._tail()
            return self.rows() >= rows

        eventually(look, timeout_s=ENDS_WITHIN_S, what=f"{rows} rows are committed")

    def ends(self) -> dict[str, Any]:
        """What it said last."""
        self.process.wait(ENDS_WITHIN_S)
        said = self.said()
        assert said, self._tail()
        assert {"report", "error"} & set(said[-1]), self._tail()
        return said[-1]

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(30)

    def _tail(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-20:])


def worker_pids(cluster: RayCluster) -> list[int]:
    """Of Ray's workers that are at a step of a pipeline."""
    return [pid for pid in cluster.pids() if _title(pid).startswith((b"ray::Map", b"ray::Read", b"ray::Stream"))]


def _title(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""  # ended in between


def kill_a_worker(cluster: RayCluster, chance: random.Random) -> None:
    pids = eventually(lambda: worker_pids(cluster), timeout_s=60.0, what="a worker is at a step")
    os.kill(chance.choice(pids), signal.SIGKILL)
