"""Raw results, kept with the machine and the day: `benchmarks/results/NAME.json`."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, Final

RESULTS: Final = Path(__file__).resolve().parent / "results"


def keep_results(name: str, rows: list[dict[str, Any]]) -> None:
    """Writes all rows that there are; over what an earlier run left."""
    RESULTS.mkdir(exist_ok=True)
    found = {"measured": time.strftime("%Y-%m-%d"), "machine": machine(), "rows": rows}
    (RESULTS / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")


def machine() -> dict[str, str]:
    info = Path("/proc/cpuinfo").read_text().splitlines()
    fields = {line.split(":")[0].strip(): line.split(":")[1].strip() for line in info if ":" in line}
    kernel = Path("/proc/version").read_text().split()[2]
    return {"cpu": fields.get("model name", "unknown"), "cpus": str(os.cpu_count()), "kernel": kernel}
