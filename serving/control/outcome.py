"""What a reconcile answers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Done:
    """As wanted. Nothing happens until the key is woken."""


@dataclass(frozen=True, slots=True)
class LookAgain:
    """As wanted for now; runs again after so many seconds, or when the key is woken before."""

    after_s: float


@dataclass(frozen=True, slots=True)
class Retry:
    """Failed for a reason that may pass: runs again after a backoff that grows with each failure in a row."""

    reason: str


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Failed for a reason that does not pass by itself. Nothing happens until the key is woken."""

    reason: str


Outcome = Done | LookAgain | Retry | GiveUp
