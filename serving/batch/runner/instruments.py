"""What a runner counts."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

from serving.batch.runner.job import Counts

DONE: Final = "done"  # of a batch that has ended
FAILED: Final = "failed"  # a job that broke: it is tried again


class RunnerInstruments:
    """Belongs to the loop of its runner; read from the thread that answers scrapes."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.running = Gauge("mesh_batch_running", "Batches that this runner works on.", registry=registry)
        self.waiting = Gauge("mesh_batch_waiting", "Batches that no runner works on yet.", registry=registry)
        self.jobs = Counter(
            "mesh_batch_jobs",
            "Batches that this runner let go: done, given_up, put_back for another time, lost to another one, failed.",
            ["end"],
            registry=registry,
        )
        self._lines = Counter(
            "mesh_batch_lines", "Lines that were answered: completed, or failed.", ["result"], registry=registry
        )
        self._tokens = Counter(
            "mesh_batch_tokens", "Tokens of their requests (prompt) and answers.", ["kind"], registry=registry
        )

    def progress(self, before: Counts, now: Counts) -> None:
        """Of one batch, whose counts may also fall: then another attempt counts anew."""
        for result in ("completed", "failed"):
            self._lines.labels(result).inc(max(0, getattr(now, result) - getattr(before, result)))
        for kind in ("prompt", "completion"):
            name = f"{kind}_tokens"
            self._tokens.labels(kind).inc(max(0, getattr(now, name) - getattr(before, name)))
