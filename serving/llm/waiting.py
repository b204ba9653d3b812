"""How long a prompt would wait for its first token: from how fast those before it got theirs. Pure; `now` is given."""

from __future__ import annotations

import math
from typing import Final

HALF_LIFE_S: Final = 10.0  # of what was seen: half of its weight is left after that
_LEAST_SEEN_S: Final = 0.5  # of waiting; less says nothing about the pace
_STANDSTILL_S: Final = 10.0  # in which some waited and none began: then that is the pace, and not one slow prompt
_LEAST_BEGUN: Final = 0.1  # tokens: a wait without an end is a number, too


class Pace:
    """Tokens of prompts that begin in a second, while any wait. Both sums fade, so that it follows the load.

    A pace of the whole replica, and not of its engine's arithmetic: it falls with longer answers, which keep others
    from beginning, and rises with prompts whose beginning is cached.
    """

    def __init__(self, now: float) -> None:
        self._at = now
        self._waiting = 0
        self._begun = 0.0  # tokens, faded
        self._seen_s = 0.0  # during which some waited, faded
        self._dry_s = 0.0  # during which some have waited now and none began
        self._ever = False  # any began

    def waits(self, tokens: int, now: float) -> None:
        """So many more wait."""
        self._fade(now)
        self._waiting += tokens

    def begins(self, tokens: int, now: float) -> None:
        """So many wait no longer, because they were computed."""
        self._fade(now)
        self._waiting -= tokens
        self._begun += tokens
        self._dry_s, self._ever = 0.0, True

    def leaves(self, tokens: int, now: float) -> None:
        """So many wait no longer, because nobody wants them any more."""
        self._fade(now)
        self._waiting -= tokens

    def wait_s(self, ahead: int, now: float) -> float | None:
        """How long `ahead` tokens take to begin. None where too little was seen to say.

        Where some wait and nothing begins any more it grows, though what began before has faded.
        """
        self._fade(now)
        stands = self._ever and self._dry_s >= _STANDSTILL_S
        if self._seen_s < _LEAST_SEEN_S or (self._begun < 1 and not stands):
            return None
        return ahead * self._seen_s / max(self._begun, _LEAST_BEGUN)

    def _fade(self, now: float) -> None:
        passed, self._at = max(0.0, now - self._at), max(self._at, now)
        share = 0.5 ** (passed / HALF_LIFE_S)
        self._begun *= share
        self._seen_s *= share
        if self._waiting > 0:
            self._seen_s += HALF_LIFE_S / math.log(2) * (1 - share)
            self._dry_s += passed
        else:
            self._dry_s = 0.0
