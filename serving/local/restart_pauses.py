"""When a process that ended may be started again: after a pause that grows while it keeps ending. Pure."""

from __future__ import annotations

from typing import Final

FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 30.0
STABLE_S: Final = 60.0


class RestartPauses:
    """Of one process. Times are monotonic seconds that the caller reads.

    One that ran for a minute begins with the shortest pause again.
    """

    def __init__(self) -> None:
        self._started_s = 0.0
        self._pause_s = FIRST_PAUSE_S
        self._not_before_s: float | None = None

    def started(self, now_s: float) -> None:
        """It was started, or the attempt failed at once."""
        self._started_s = now_s
        self._not_before_s = None

    def ended(self, now_s: float) -> bool:
        """To be told whenever it is seen not to run; True the first time since its last start."""
        if self._not_before_s is not None:
            return False
        if now_s - self._started_s > STABLE_S:
            self._pause_s = FIRST_PAUSE_S
        self._not_before_s = now_s + self._pause_s
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        return True

    def over(self, now_s: float) -> bool:
        """Whether it may be started now."""
        return self._not_before_s is not None and now_s >= self._not_before_s
