"""The queues of a journal, one for each deployment, with what they count."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from serving.broker.items import Item, State
from serving.broker.prediction import UNKNOWN_S, Features, Predictor
from serving.broker.queue import QueueSettings, Waiting, WaitingQueue

_MEAN_OF: Final = 50
_ENOUGH: Final = 5


@dataclass(slots=True)
class Counters:
    """Of a deployment, since the process began."""

    submitted: int = 0
    succeeded: int = 0
    failed: int = 0
    requeued: int = 0
    dead: int = 0
    cancelled: int = 0
    expired: int = 0

    def ended(self, state: State) -> None:
        name = state.name.lower()
        setattr(self, name, getattr(self, name) + 1)


@dataclass(slots=True)
class MeanTime:
    """Of execution, over about the last `_MEAN_OF` items; `seconds` is 0.0 until `_ENOUGH` have ended."""

    _count: int = 0
    _mean: float = 0.0

    def add(self, seconds: float) -> None:
        self._count += 1
        self._mean += (seconds - self._mean) / min(self._count, _MEAN_OF)

    @property
    def seconds(self) -> float:
        return self._mean if self._count >= _ENOUGH else 0.0


class Queues:
    """`now` gives unix seconds."""

    def __init__(self, now: Callable[[], float], settings: QueueSettings | None = None) -> None:
        self._now = now
        self._settings = settings or QueueSettings()
        self._queues: dict[str, WaitingQueue] = {}
        self._predictors: dict[str, Predictor] = {}
        self._counters: dict[str, Counters] = {}
        self._times: dict[str, MeanTime] = {}
        self.dead: Counter[str] = Counter()  # that are kept

    @property
    def by_deployment(self) -> dict[str, WaitingQueue]:
        return self._queues

    @property
    def all_counters(self) -> dict[str, Counters]:
        return self._counters

    def counters(self, deployment: str) -> Counters:
        return self._counters.setdefault(deployment, Counters())

    def add(self, item: Item, *, trial: bool = False) -> None:
        """`trial`: see `WaitingQueue.add`."""
        self._queue(item.deployment).add(self._waiting(item), self._now(), trial=trial)

    def recovered(
        self, deployment: str, number: int, tenant: str, priority: int, submitted: float, deadline: float | None,
        expected_s: float, size_bytes: int,
    ) -> None:  # fmt: skip
        """One that waited before this process began, which has seen none yet to predict from."""
        until = math.inf if deadline is None else deadline
        waiting = Waiting(number, tenant, priority, until, submitted, expected_s or UNKNOWN_S, size_bytes)
        self._queue(deployment).add(waiting, self._now())

    def waits(self, deployment: str) -> bool:
        """Something does, or has passed its deadline and is not ended yet."""
        queue = self._queues.get(deployment)
        return queue is not None and len(queue) > 0

    def take(self, deployment: str, places: int, ahead: int = 0) -> tuple[Waiting, bool] | None:
        """With whether it is long; see `WaitingQueue.take`."""
        queue = self._queues.get(deployment)
        waiting = queue.take(self._now(), places, ahead) if queue is not None else None
        return None if queue is None or waiting is None else (waiting, queue.took_long)

    def remove(self, number: int) -> tuple[str, Waiting] | None:
        """Takes out an item that waits; with its deployment."""
        for deployment, queue in self._queues.items():
            waiting = queue.remove(number)
            if waiting is not None:
                return deployment, waiting
        return None

    def expire(self) -> list[tuple[str, Waiting]]:
        now = self._now()
        return [
            (deployment, waiting)
            for deployment, queue in self._queues.items()
            if queue.next_deadline() <= now
            for waiting in queue.expire(now)
        ]

    def release(self, item: Item) -> None:
        """It does not run any more, or never has; harmless to repeat."""
        queue = self._queues.get(item.deployment)
        if queue is not None:
            queue.release(item.number)

    def ended(self, item: Item) -> None:
        """Counts it, and learns from one that has succeeded."""
        self.release(item)
        self.counters(item.deployment).ended(item.state)
        if item.state is State.DEAD:
            self.dead[item.deployment] += 1
        if item.state is State.SUCCEEDED:
            took_s = item.ended - item.started
            self._predictor(item.deployment).learn(_features(item), took_s)
            self._times.setdefault(item.deployment, MeanTime()).add(max(took_s, 0.0))

    def mean_s(self, deployment: str) -> float:
        """What an item took of late; 0.0 while too few have ended here."""
        known = self._times.get(deployment)
        return known.seconds if known is not None else 0.0

    def _waiting(self, item: Item) -> Waiting:
        expected_s = self._predictor(item.deployment).predict(_features(item))
        return Waiting(
            item.number, item.tenant, item.priority, item.deadline, item.submitted, expected_s, item.size_bytes
        )

    def _queue(self, deployment: str) -> WaitingQueue:
        queue = self._queues.get(deployment)
        if queue is None:
            queue = self._queues[deployment] = WaitingQueue(self._settings)
        return queue

    def _predictor(self, deployment: str) -> Predictor:
        found = self._predictors.get(deployment)
        if found is None:
            found = self._predictors[deployment] = Predictor()
        return found


def _features(item: Item) -> Features:
    return Features(item.labels, item.size_bytes, item.expected_s)


def bare_item(deployment: str, waiting: Waiting) -> Item:
    """What memory knows of an item that waits; the rest is on disk."""
    return Item(
        waiting.number, deployment, waiting.tenant, "", waiting.priority, waiting.submitted, waiting.deadline, 0.0, 0.0,
        waiting.size_bytes,
    )  # fmt: skip
