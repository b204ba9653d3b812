"""How many generations that give way are computed beside those that do not. Pure; `now` is given, in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from serving.llm.step_cost import StepCost

_BREATH_S: Final = 0.005  # without others, before anything resumes: an answer's end is often another one's beginning
_CALM_S: Final = 2.0  # without others: then none is expected in the next moment
_GAP_SHARE: Final = 0.5  # by which steps between others may be longer than the shortest one: who comes waits for one


@dataclass(frozen=True, slots=True)
class Yielding:
    """`share`: by how much steps of others may become longer. Who has waited for `patience_s` is computed, one after
    the other, whatever else is there."""

    share: float = 0.05
    patience_s: float = 30.0


class YieldingRoom:
    """Belongs to the engine's thread, which tells it of each step."""

    def __init__(self, settings: Yielding, most: int) -> None:
        """`most` generations are computed together, of all kinds."""
        self.settings = settings
        self.most = most
        self.cost = StepCost()
        self._others_at = float("-inf")  # when one was last there

    def places(self, others: int, now: float) -> int:
        """While `others` that do not give way run or wait."""
        if others:
            self._others_at = now
            return min(self.cost.beside(others, self.settings.share) or 0, max(0, self.most - others))
        quiet_s = now - self._others_at
        if quiet_s < _BREATH_S:
            return 0
        if quiet_s < _CALM_S:
            return min(1 + (self.cost.beside(1, _GAP_SHARE) or 0), self.most)
        return self.most

    def pause_s(self, prompt_s: float) -> float:
        """After a prompt that took so long beside others, so that prompts take the share of their time, too."""
        return prompt_s / self.settings.share if self.settings.share else float("inf")

    def is_due(self, since: float, now: float) -> bool:
        """Of one that waits since then."""
        return now - since >= self.settings.patience_s

    def rest_s(self, now: float) -> float:
        """When to look again, where nothing runs because nothing may."""
        left_s = self._others_at + _BREATH_S - now
        return left_s if left_s > 0 else _BREATH_S

    @property
    def most_fixed(self) -> int:
        """Of those that cannot be paused: others find a place at once."""
        return max(1, self.most - self.most // 4)
