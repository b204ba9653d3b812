"""A batch that is followed until it has ended: how far it is, how fast, and how long it may still take."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from serving.batch.progress import Progress, Rate
from serving.cli.gateway_calls import Gateway
from serving.errors import DeadlineExceeded, Unavailable

ENDED: Final = ("completed", "failed", "expired", "cancelled")
_LOOK_S: Final = 1.0  # runners tell every second
_LATER_LOOK_S: Final = 5.0
_LATER_S: Final = 600.0  # who follows for longer is in no hurry
_PATIENCE_S: Final = 300.0  # of a gateway that does not answer: the batch goes on without it


@dataclass(frozen=True, slots=True)
class Done:
    """What is done of a batch: requests with an outcome, and tokens."""

    rows: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @classmethod
    def of(cls, batch: dict[str, Any]) -> Done:
        counts, usage = batch["request_counts"], batch["usage"]
        return cls(counts["completed"] + counts["failed"], usage["input_tokens"], usage["output_tokens"])

    def since(self, first: Done) -> Done:
        """A runner that begins again may tell less than the one before."""
        return Done(
            max(0, self.rows - first.rows),
            max(0, self.prompt_tokens - first.prompt_tokens),
            max(0, self.completion_tokens - first.completion_tokens),
        )


class BatchProgress:
    """What gateways say of one batch, as it is told: with rates of what was done since it is followed."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = Rate(clock)
        self._first: Done | None = None

    def of(self, batch: dict[str, Any], detail: str = "") -> Progress:
        done, counts = Done.of(batch), batch["request_counts"]
        if self._first is None:
            self._first = done
        self._rate.add(done.since(self._first))
        rows_per_s, tokens_per_s = self._rate.per_second()
        total = counts["total"] or None
        return Progress(
            job=batch["id"],
            state=batch["status"],
            batch=0,
            rows=done.rows,
            pending=0,
            total=total,
            errors=counts["failed"],
            prompt_tokens=done.prompt_tokens,
            completion_tokens=done.completion_tokens,
            rows_per_s=rows_per_s,
            tokens_per_s=tokens_per_s,
            left_s=max(0, total - done.rows) / rows_per_s if total and rows_per_s else None,
            elapsed_s=self._rate.elapsed_s,
            detail=detail,
        )


async def follow(
    gateway: Gateway, batch: dict[str, Any], told: Callable[[dict[str, Any], str], None], *, timeout_s: float | None
) -> dict[str, Any]:
    """Until it has ended. `told` gets each state of it, and what is in the way.

    Raises `DeadlineExceeded` after `timeout_s` (the batch goes on), `Unavailable` where no gateway answers for long.
    """
    began = answered = time.monotonic()
    told(batch, "")
    while batch["status"] not in ENDED:
        now = time.monotonic()
        if timeout_s is not None and now - began >= timeout_s:
            raise DeadlineExceeded(
                f"batch {batch['id']} is {batch['status']} after {timeout_s:g} s; it goes on: "
                f"`mesh batch show --watch {batch['id']}`"
            )
        pause_s = _LOOK_S if now - began < _LATER_S else _LATER_LOOK_S
        await asyncio.sleep(pause_s if timeout_s is None else min(pause_s, max(0.0, began + timeout_s - now)))
        try:
            batch = await gateway.batch(batch["id"])
        except Unavailable as error:
            if time.monotonic() - answered > _PATIENCE_S:
                raise
            told(batch, error.message)
            continue
        answered = time.monotonic()
        told(batch, batch.get("message") or "")
    return batch
