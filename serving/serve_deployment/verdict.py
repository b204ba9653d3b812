"""From what Ray Serve says of an application to the state of our replica. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

GONE: Final = ""  # Serve knows no application of this name
WAITING: Final = "WAITING"  # our own word: Serve cannot be asked yet
_RUNNING: Final = "RUNNING"
_DEPLOYING: Final = "DEPLOYING"
_FAILED: Final = "DEPLOY_FAILED"
_UNHEALTHY: Final = "UNHEALTHY"
_DELETING: Final = "DELETING"
_ADOPTABLE: Final = frozenset({_DEPLOYING, _RUNNING, _UNHEALTHY})
_MAX_MESSAGE: Final = 1500  # letters of one deployment's message: the end, where tracebacks say what it was


@dataclass(frozen=True, slots=True)
class EntryPoint:
    """Where one of Serve's proxies takes requests. `host` is what it listens on, or its node's address for any."""

    protocol: str
    host: str
    port: int
    tls: bool = False


@dataclass(frozen=True, slots=True)
class Sight:
    """One look at an application. `status` is Serve's word, or `GONE`."""

    status: str
    message: str = ""
    route_prefix: str = ""
    entry_points: tuple[EntryPoint, ...] = ()


@dataclass(frozen=True, slots=True)
class Patience:
    """How long Serve gets to heal an application that ran, in seconds."""

    unhealthy_s: float = 30.0
    gone_s: float = 3.0  # long enough for a controller that starts again and reads what it had


@dataclass(frozen=True, slots=True)
class Verdict:
    """`state` as in `ReplicaReport`."""

    state: str
    reason: str = ""


class Judge:
    """Remembers whether the application ran, and since when it does not."""

    def __init__(self, patience: Patience | None = None) -> None:
        self._patience = patience or Patience()
        self._ran = False
        self._bad_since: float | None = None

    def look(self, sight: Sight, now: float) -> Verdict:
        """What it means now; `now` in seconds of any steady clock."""
        if sight.status == _RUNNING or (self._ran and sight.status == _DEPLOYING):
            self._bad_since = None
            self._ran = self._ran or bool(sight.entry_points)
            return Verdict("ready") if self._ran else Verdict("loading", "Ray Serve has no proxy that takes requests")
        told = f"Ray Serve says {sight.status}: {sight.message}" if sight.message else f"Ray Serve says {sight.status}"
        told = sight.message if sight.status == WAITING else told
        gone = sight.status in (GONE, _DELETING)
        if gone:
            told = "its application is gone from Ray Serve: somebody else deletes it"
        if not self._ran:
            return Verdict("failed" if gone or sight.status == _FAILED else "loading", told)
        if sight.status == WAITING:
            return Verdict("ready")  # what runs keeps running
        self._bad_since = now if self._bad_since is None else self._bad_since
        limit_s = self._patience.gone_s if gone else self._patience.unhealthy_s
        return Verdict("unhealthy", told) if now - self._bad_since >= limit_s else Verdict("ready")


def adoptable(sight: Sight, route_prefix: str) -> bool:
    """An application of our name is the one that we would deploy, and there is hope for it."""
    return sight.status in _ADOPTABLE and sight.route_prefix == route_prefix


def told_of(application: Mapping[str, Any]) -> str:
    """Serve's message on an application, with those of its deployments that say what is wrong.

    `application` as `ServeInstanceDetails` has it.
    """
    parts = [str(application.get("message", "")).strip()]
    for name, deployment in sorted((application.get("deployments") or {}).items()):
        message = str(deployment.get("message", "")).strip()
        if message and _word(deployment.get("status")) != "HEALTHY":
            parts.append(f"{name}: {_end_of(message)}")
    return " ".join(part for part in parts if part)


def _end_of(message: str) -> str:
    """In one line."""
    text = " ".join(message.split())
    return text if len(text) <= _MAX_MESSAGE else f"... {text[-_MAX_MESSAGE:]}"


def _word(status: object) -> str:
    """An enumeration of Serve's, or its value."""
    return str(getattr(status, "value", status))


def sight_of(details: Mapping[str, Any], name: str, entry_points: tuple[EntryPoint, ...] = ()) -> Sight:
    """The application `name` in `ServeInstanceDetails`."""
    application = (details.get("applications") or {}).get(name)
    if application is None:
        return Sight(GONE, entry_points=entry_points)
    return Sight(
        _word(application["status"]), told_of(application), application.get("route_prefix") or "", entry_points
    )
