"""OpenAI's `service_tier`: how urgent a request is. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final

SERVICE_TIERS: Final = ("auto", "default", "flex", "priority")  # that may be asked for


class ServiceTier(Enum):
    """By the name that answers carry. Sorted from the most urgent one."""

    PRIORITY = "priority"
    DEFAULT = "default"
    FLEX = "flex"

    @property
    def rank(self) -> int:
        """Smaller is more urgent; 0 is what nobody asked for."""
        return _RANKS[self]


_RANKS: Final[Mapping[ServiceTier, int]] = {ServiceTier.PRIORITY: -1, ServiceTier.DEFAULT: 0, ServiceTier.FLEX: 1}


def service_tier(asked: str | None) -> ServiceTier:
    """Of a checked request."""
    return ServiceTier.DEFAULT if asked in (None, "auto") else ServiceTier(asked)
