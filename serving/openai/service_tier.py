"""OpenAI's `service_tier`: how urgent a request is. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final

from serving.openai.errors import InvalidRequest

CLASS_HEADER: Final = "x-mesh-class"  # of HTTP: how urgent a request is to the mesh, below all tiers
BATCH_CLASS: Final = "batch"  # the only one: it takes what others leave free
SERVICE_TIERS: Final = ("auto", "default", "flex", "priority")  # that may be asked for


class ServiceTier(Enum):
    """By the name that answers carry. Sorted from the most urgent one."""

    PRIORITY = "priority"
    DEFAULT = "default"
    FLEX = "flex"
    BATCH = "batch"  # cannot be asked for as a tier: by the header alone

    @property
    def rank(self) -> int:
        """Smaller is more urgent; 0 is what nobody asked for."""
        return _RANKS[self]


_RANKS: Final[Mapping[ServiceTier, int]] = {
    ServiceTier.PRIORITY: -1,
    ServiceTier.DEFAULT: 0,
    ServiceTier.FLEX: 1,
    ServiceTier.BATCH: 2,
}


def is_batch(said: str) -> bool:
    """Of the value of `x-mesh-class`, "" where it is not there. Raises `InvalidRequest`."""
    if said not in ("", BATCH_CLASS):
        raise InvalidRequest(
            f"{CLASS_HEADER}: only {BATCH_CLASS} is known, for what may wait; found {said[:40]!r}",
            error_code="invalid_value",
        )
    return said == BATCH_CLASS


def service_tier(asked: str | None, said_class: str = "") -> ServiceTier:
    """Of a checked request, and of its header `x-mesh-class`, which wins. Raises `InvalidRequest`."""
    if is_batch(said_class):
        return ServiceTier.BATCH
    return ServiceTier.DEFAULT if asked in (None, "auto") else ServiceTier(asked)
