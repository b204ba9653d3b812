"""What vLLM's scheduler says of itself after its steps."""

from __future__ import annotations

from typing import Any


class VllmStatistics:
    """The last numbers. `logger` is a factory of vLLM's stat loggers, that has what vLLM calls of them."""

    def __init__(self) -> None:
        self.running = 0
        self.cache_usage = 0.0  # 0 to 1

    def logger(self, _config: Any, _engine_index: int = 0) -> _StatLogger:
        return _StatLogger(self)


class _StatLogger:
    def __init__(self, statistics: VllmStatistics) -> None:
        self._statistics = statistics

    def record(self, scheduler_stats: Any = None, *_: Any, **__: Any) -> None:
        if scheduler_stats is not None:
            self._statistics.running = scheduler_stats.num_running_reqs
            self._statistics.cache_usage = float(scheduler_stats.kv_cache_usage)

    def log_engine_initialized(self) -> None:
        """vLLM calls it; nothing is to be said."""

    def log(self) -> None:
        """As above."""

    def record_sleep_state(self, is_awake: int, level: int) -> None:
        """As above: the mesh puts no engine to sleep."""

    def record_admission_rejection(self, reason: str) -> None:
        """As above: the mesh admits requests itself."""
