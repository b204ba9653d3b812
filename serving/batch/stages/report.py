"""What limited a job: from the seconds of its workers. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Final

from serving.batch.sending.settings import SenderStats

SOURCE: Final = "source"
PREPARE: Final = "prepare"
INFER: Final = "infer"
POSTPROCESS: Final = "postprocess"
_MUCH: Final = 0.5
_SOME: Final = 0.25


@dataclass(slots=True)
class WorkerTimes:
    """Of one worker: `open_s` since its first row, and where they went; `limits` are the windows of its endpoints."""

    open_s: float = 0.0
    prepare_s: float = 0.0
    finish_s: float = 0.0
    sender: dict[str, float] = field(default_factory=lambda: SenderStats().as_dict())
    limits: dict[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Report:
    """`stage` limited the job, and `why` says by what. `shares` of the workers' time, 0 to 1; counts of all workers."""

    stage: str
    why: str
    shares: dict[str, float]
    workers: int
    rows: int
    answers: int
    faults: int
    same: int
    retries: int
    refusals: int
    windows: dict[str, int]


def report_of(workers: Iterable[WorkerTimes]) -> Report:
    """`windows`: requests at each endpoint, of all workers together."""
    seen = list(workers)
    total = {name: sum(one.sender.get(name, 0.0) for one in seen) for name in SenderStats().as_dict()}
    open_s = sum(one.open_s for one in seen)
    parts = {
        "waiting_for_rows": total["idle_s"],
        "preparing": sum(one.prepare_s for one in seen),
        "waiting_for_windows": total["window_s"],
        "waiting_for_replicas": total["endpoint_s"],
        "postprocessing": sum(one.finish_s for one in seen),
    }
    shares = {name: round(min(1.0, seconds / open_s), 3) if open_s > 0 else 0.0 for name, seconds in parts.items()}
    windows: dict[str, int] = {}
    for one in seen:
        for endpoint, limit in one.limits.items():
            windows[endpoint] = windows.get(endpoint, 0) + limit
    stage, why = _judged(shares, total, len(windows))
    counts = {name: int(total[name]) for name in ("rows", "answers", "faults", "same", "retries", "refusals")}
    return Report(stage, why, shares, len(seen), windows=windows, **counts)


def _judged(shares: dict[str, float], total: dict[str, float], endpoints: int) -> tuple[str, str]:
    if not total["rows"]:
        return SOURCE, "no row has come to a worker yet"
    if shares["preparing"] >= _MUCH:
        return PREPARE, "workers were busy preparing rows: give `concurrency` more of them"
    if shares["postprocessing"] >= _MUCH:
        return POSTPROCESS, "workers were busy with answers: give `concurrency` more of them"
    if shares["waiting_for_replicas"] >= _SOME:
        refused = int(total["refusals"])
        return INFER, f"rows waited, and no replica took any ({endpoints} known, {refused} refusals): add replicas"
    if shares["waiting_for_rows"] > shares["waiting_for_windows"]:
        return (
            SOURCE,
            "replicas had room, and no row was there: what stands before the processor, or after it, is slower",
        )
    return INFER, f"replicas were full: {endpoints} had as many rows as they answer fastest; add replicas"
