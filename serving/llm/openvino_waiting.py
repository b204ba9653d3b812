"""Generations that wait for a place in the engine, in their order. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from typing import Final

from serving.llm.generation_stream import GenerationStream
from serving.llm.openvino_run import EngineRun

_MOST_FORGOTTEN: Final = 64  # cancelled ones that may stay until they are met


class WaitingRuns:
    """Whoever was cancelled is in it until it is met, or until there are more of those than others."""

    def __init__(self, runs: Mapping[GenerationStream, EngineRun]) -> None:
        """`runs`: all that wait or run; who is not in it was cancelled."""
        self._runs = runs
        self._heap: list[tuple[tuple[bool, int, int], EngineRun]] = []

    def __len__(self) -> int:
        """With cancelled ones."""
        return len(self._heap)

    @property
    def begun(self) -> int:
        """How many of them had tokens: these are paused. For any thread."""
        return sum(bool(run.told) and run.stream in self._runs for _, run in tuple(self._heap))

    def add(self, run: EngineRun) -> None:
        heapq.heappush(self._heap, (run.order, run))

    def first(self) -> EngineRun | None:
        while self._heap and self._heap[0][1].stream not in self._runs:
            heapq.heappop(self._heap)
        return self._heap[0][1] if self._heap else None

    def take(self) -> EngineRun | None:
        """The first one, which waits no longer."""
        run = self.first()
        if run is not None:
            heapq.heappop(self._heap)
        return run

    def tidy(self) -> None:
        """After a cancellation."""
        if len(self._heap) > 2 * len(self._runs) + _MOST_FORGOTTEN:
            self._heap = [entry for entry in self._heap if entry[1].stream in self._runs]
            heapq.heapify(self._heap)

    def clear(self) -> None:
        self._heap.clear()
