"""What a check of `mesh doctor` found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

OK: Final = "ok"
WARNING: Final = "warning"
FAILED: Final = "failed"


@dataclass(frozen=True, slots=True)
class Check:
    """`state` is ok, warning or failed; `advice` says what to do where it is not ok."""

    name: str
    state: str
    found: str
    advice: str = ""
