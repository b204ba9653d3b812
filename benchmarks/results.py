"""Results of several rounds: their medians, and all of them, kept with the machine and the day."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Final, TypeVar

RESULTS: Final = Path(__file__).resolve().parent / "results"


Cell = TypeVar("Cell")


def median_cell(cells: Sequence[Cell]) -> Cell:
    """Of dataclasses that hold numbers only: the median of each field."""
    first: Any = cells[0]
    made: Cell = type(first)(
        *(statistics.median(getattr(cell, field.name) for cell in cells) for field in fields(first))
    )
    return made


def keep_results(name: str, rows: list[dict[str, Any]]) -> None:
    """Writes all rows that there are to `benchmarks/results/NAME.json`; over what an earlier run left."""
    RESULTS.mkdir(exist_ok=True)
    found = {"measured": time.strftime("%Y-%m-%d"), "machine": machine(), "rows": rows}
    (RESULTS / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")


def machine() -> dict[str, str]:
    info = Path("/proc/cpuinfo").read_text().splitlines()
    fields = {line.split(":")[0].strip(): line.split(":")[1].strip() for line in info if ":" in line}
    kernel = Path("/proc/version").read_text().split()[2]
    return {"cpu": fields.get("model name", "unknown"), "cpus": str(os.cpu_count()), "kernel": kernel}
