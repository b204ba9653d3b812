"""What answers to batches say of a replica: nothing of its speed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from serving.gateway.catalog import ModelKey
from serving.gateway.forwarding import Forwarder, Request
from serving.http_client import Broke, Silent


def forwarder() -> tuple[Forwarder, Mock]:
    upstreams: Any = Mock()
    others: list[Any] = [Mock() for _ in range(5)]
    client, follower, splits, instruments, through = others
    made = Forwarder(client, follower, upstreams, splits, instruments, hold_s=1.0, max_attempts=2, through=through)
    return made, upstreams


def request(said: str) -> Request:
    return Request(Mock(ModelKey), "/v1/completions", b"", {"x-mesh-class": said} if said else {})


@pytest.mark.parametrize(("said", "told"), [("", 0.5), ("batch", None)])
async def test_times_are_those_of_others(said: str, told: float | None) -> None:
    made, upstreams = forwarder()
    work: Any = Mock()
    answer: Any = SimpleNamespace(status=200, headers={})
    assert await made._judged(request(said), work, answer, 0.5) is None
    upstreams.succeeded.assert_called_once_with(work.upstream, told)


@pytest.mark.parametrize(
    ("said", "why", "lost"), [("", Silent("s"), 1), ("batch", Silent("s"), 0), ("batch", Broke("b"), 1)]
)
def test_silence_is_no_fault_where_a_batch_waits(said: str, why: Broke, lost: int) -> None:
    made, upstreams = forwarder()
    made._lost(request(said), Mock(), why)
    assert upstreams.lost.call_count == lost
