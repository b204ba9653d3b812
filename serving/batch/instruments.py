"""Metrics of the jobs of a process, made of their progress."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

from serving.batch.progress import Progress


class JobMetrics:
    """`on_progress` of a job, or called by it. What earlier runs of a job had committed is not counted again."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._rows = Counter("mesh_batch_job_rows", "Rows committed, by outcome.", ["outcome"], registry=registry)
        self._tokens = Counter("mesh_batch_job_tokens", "Tokens of committed rows.", ["kind"], registry=registry)
        self._rate = Gauge("mesh_batch_job_rows_per_second", "Over the last minute.", registry=registry)
        self._disk_full = Gauge("mesh_batch_job_disk_full", "1: the job waits for room on the disk.", registry=registry)
        self._last: Progress | None = None

    def __call__(self, progress: Progress) -> None:
        last = self._last if self._last is not None and self._last.job == progress.job else progress
        self._last = progress
        failed = progress.errors - last.errors
        # A commit whose parts turn out to be lost takes rows away: a counter stands still then.
        self._rows.labels("failed").inc(max(0, failed))
        self._rows.labels("ok").inc(max(0, progress.rows - last.rows - failed))
        self._tokens.labels("prompt").inc(max(0, progress.prompt_tokens - last.prompt_tokens))
        self._tokens.labels("completion").inc(max(0, progress.completion_tokens - last.completion_tokens))
        self._rate.set(progress.rows_per_s)
        self._disk_full.set(progress.state == "disk_full")
