"""The one table of what a failed attempt means."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.discovery.client_verdict import Fault, Next, judge, was_never_sent
from serving.errors import Code

REFUSED = "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: Connection refused"


@pytest.mark.parametrize(
    ("code", "details", "connected", "then", "fault"),
    [
        (Code.UNAVAILABLE, "overloaded", True, Next.ELSEWHERE, Fault.FAILED),
        (Code.UNAVAILABLE, "Socket closed", False, Next.ELSEWHERE, Fault.LOST),
        (Code.UNAVAILABLE, REFUSED, False, Next.ELSEWHERE, Fault.LOST),
        (Code.UNAVAILABLE, "the replica is draining", True, Next.ELSEWHERE, Fault.LEAVING),
        (Code.RESOURCE_EXHAUSTED, "queue is full", True, Next.LATER, Fault.BUSY),
        (Code.UNAVAILABLE, "[request id: 1] Exceeds maximum queue size", True, Next.LATER, Fault.BUSY),
        (Code.RESOURCE_EXHAUSTED, "Received message larger than max (5 vs. 4)", True, Next.RAISE, Fault.NONE),
        (Code.NOT_FOUND, "no model x", True, Next.ELSEWHERE_ONCE, Fault.NONE),
        (Code.CANCELLED, "", True, Next.ELSEWHERE, Fault.FAILED),
        (Code.DEADLINE_EXCEEDED, "", True, Next.RAISE, Fault.SLOW),
        (Code.INTERNAL, "", True, Next.RAISE, Fault.FAILED),
        (Code.UNKNOWN, "", True, Next.RAISE, Fault.FAILED),
        (Code.DATA_LOSS, "", True, Next.RAISE, Fault.FAILED),
        (Code.INVALID_ARGUMENT, "", True, Next.RAISE, Fault.NONE),
        (Code.UNIMPLEMENTED, "", True, Next.RAISE, Fault.NONE),
        (Code.UNAUTHENTICATED, "", True, Next.RAISE, Fault.NONE),
    ],
)
def test_table(code: Code, details: str, connected: bool, then: Next, fault: Fault) -> None:
    verdict = judge(code, details, connected=connected, retry_safe=True)
    assert (verdict.next, verdict.fault) == (then, fault)


@pytest.mark.parametrize(
    ("code", "details", "then"),
    [
        (Code.UNAVAILABLE, "Socket closed", Next.RAISE),
        (Code.UNAVAILABLE, REFUSED, Next.ELSEWHERE),
        (Code.UNAVAILABLE, "this replica is draining and takes no new requests", Next.ELSEWHERE),
        (Code.RESOURCE_EXHAUSTED, "queue is full", Next.LATER),
        (Code.CANCELLED, "", Next.RAISE),
    ],
)
def test_what_must_not_run_twice_goes_on_only_when_it_did_not_run(code: Code, details: str, then: Next) -> None:
    assert judge(code, details, connected=False, retry_safe=False).next is then


def test_a_full_queue_inside_of_a_model_may_follow_a_step_that_has_run() -> None:
    verdict = judge(Code.UNAVAILABLE, "Exceeds maximum queue size", connected=True, retry_safe=False)
    assert (verdict.next, verdict.fault) == (Next.RAISE, Fault.BUSY)


@given(st.integers(-5, 40), st.text(), st.booleans(), st.booleans())
def test_any_status_is_judged_and_the_requests_own_faults_never_repeat(
    code: int, details: str, connected: bool, retry_safe: bool
) -> None:
    verdict = judge(code, details, connected=connected, retry_safe=retry_safe)
    if code in (Code.INVALID_ARGUMENT, Code.OUT_OF_RANGE, Code.UNIMPLEMENTED, Code.DEADLINE_EXCEEDED):
        assert verdict.next is Next.RAISE
    if code not in Code.__members__.values():
        assert (verdict.next, verdict.fault) == (Next.RAISE, Fault.NONE)


def test_never_sent() -> None:
    assert was_never_sent(REFUSED, connected=False)
    assert not was_never_sent(REFUSED, connected=True)
    assert not was_never_sent("Socket closed", connected=False)
