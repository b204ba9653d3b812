"""What every kind of deployment with a C++ ingress can be told."""

from __future__ import annotations

from typing import Final

from serving.sdk._table import Field, Whole

BUSY_POLL: Final = Field(
    "busy_poll_us",
    Whole(),
    "Microseconds for which an ingress thread polls for more before it sleeps; costs a CPU while traffic flows; 0 off.",
    default=0,
)
