"""What a failed attempt means: for the request (try again?) and for the endpoint (its fault?). Pure, one table."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final

from serving.errors import Code


class Next(Enum):
    """What may be done with the request."""

    RAISE = 1  # it would fail again, or may have been done already
    ELSEWHERE = 2  # try another endpoint at once
    ELSEWHERE_ONCE = 3  # another endpoint may know better, but only one is asked
    LATER = 4  # try another endpoint, after a pause


class Fault(Enum):
    """What it says about the endpoint."""

    NONE = 1  # it works: the request was answered
    BUSY = 2  # it works and has no room
    LEAVING = 3  # it drains: no new work for it
    FAILED = 4  # counts towards ejection
    SLOW = 5  # counts too, unless the time was too short to say
    LOST = 6  # no connection: ejected at once


@dataclass(frozen=True, slots=True)
class Verdict:
    next: Next
    fault: Fault


# Upper and lower case of ASCII only, as in the C++ twin (cpp_ext/routing/verdict.cc).
_FLAGS: Final = re.IGNORECASE | re.ASCII
_NO_CONNECTION: Final = re.compile(r"failed to connect|connection refused|connections to all backends failing", _FLAGS)
_NOT_PROCESSED: Final = re.compile(r"\(not processed\)\Z", _FLAGS)  # clients of cpp_ext/rpc; a proxy passes it on
_DRAINING: Final = re.compile(r"draining|shutting down", _FLAGS)
# The words of our own servers, which say them only to what they have not begun.
_REFUSED: Final = re.compile(r"is draining and takes no new requests", _FLAGS)
# Triton's words for a model whose queue is full (max_queue_size).
_QUEUE_FULL: Final = re.compile(r"exceeds maximum queue size", _FLAGS)
_TOO_LARGE: Final = re.compile(r"message (is )?larger than|exceeds .*(limit|max)", _FLAGS)

_TABLE: Final[dict[Code, Verdict]] = {
    Code.CANCELLED: Verdict(Next.ELSEWHERE, Fault.FAILED),  # by the server: we did not cancel it
    Code.UNKNOWN: Verdict(Next.RAISE, Fault.FAILED),
    Code.DEADLINE_EXCEEDED: Verdict(Next.RAISE, Fault.SLOW),
    Code.NOT_FOUND: Verdict(Next.ELSEWHERE_ONCE, Fault.NONE),
    Code.RESOURCE_EXHAUSTED: Verdict(Next.LATER, Fault.BUSY),
    Code.INTERNAL: Verdict(Next.RAISE, Fault.FAILED),
    Code.UNAVAILABLE: Verdict(Next.ELSEWHERE, Fault.FAILED),
    Code.DATA_LOSS: Verdict(Next.RAISE, Fault.FAILED),
}
_ANSWERED: Final = Verdict(Next.RAISE, Fault.NONE)


def judge(code: int, details: str, *, connected: bool, retry_safe: bool) -> Verdict:
    """The verdict on a status.

    `connected`: the connection still stands, so the status was sent by the endpoint itself. `retry_safe`: the request
    may be executed twice; one that may not is tried again only when it was surely not executed.
    """
    verdict = _TABLE.get(Code(code), _ANSWERED) if code in Code.__members__.values() else _ANSWERED
    if code == Code.UNAVAILABLE:
        if _DRAINING.search(details):
            again = retry_safe or _REFUSED.search(details) is not None
            return Verdict(Next.ELSEWHERE if again else Next.RAISE, Fault.LEAVING)
        if connected and _QUEUE_FULL.search(details):
            # The queue may be that of a later step of an ensemble, whose first steps have run.
            return _TABLE[Code.RESOURCE_EXHAUSTED] if retry_safe else Verdict(Next.RAISE, Fault.BUSY)
        if not connected:
            verdict = Verdict(Next.ELSEWHERE, Fault.LOST)
        if not retry_safe and not was_never_sent(details, connected=connected):
            return Verdict(Next.RAISE, verdict.fault)
        return verdict
    if code == Code.RESOURCE_EXHAUSTED and _TOO_LARGE.search(details):
        return _ANSWERED
    if code == Code.CANCELLED and not retry_safe:
        return Verdict(Next.RAISE, verdict.fault)
    return verdict


def was_never_sent(details: str, *, connected: bool) -> bool:
    """True when the request surely was not executed.

    No connection was there on which it could have reached the endpoint, or a C++ client on the way says so. With a
    connection the words are the endpoint's own: "connection refused" is then what its model met.
    """
    return _NOT_PROCESSED.search(details) is not None or (not connected and _NO_CONNECTION.search(details) is not None)
