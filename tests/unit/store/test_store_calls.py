"""How long a call to etcd is tried again."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import grpc
import pytest

from serving._proto import etcd_pb2 as pb
from serving.config import EtcdConfig
from serving.errors import StoreUnavailable
from serving.store import calls as module
from serving.store import wire
from serving.store.calls import Calls
from serving.store.faults import Fault, fault_of_status

CONFIG = EtcdConfig(endpoints=("127.0.0.1:1",), request_timeout_s=2.0, max_attempts=6)


class Etcd:
    """Answers each attempt after so many seconds, "late" or right, on a clock of its own."""

    def __init__(self, calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        self.attempts: Iterator[tuple[float, bool]] = iter(())
        self.asked = 0
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now_s))
        monkeypatch.setattr(calls, "_once", self._once)
        monkeypatch.setattr(calls, "_pause", self._pause)

    async def _once(self, *_: object) -> pb.RangeResponse:
        self.asked += 1
        took_s, right = next(self.attempts)
        self.now_s += took_s
        if right:
            return pb.RangeResponse(count=7)
        raise module._AttemptError(fault_of_status(grpc.StatusCode.DEADLINE_EXCEEDED, "late", "get", "127.0.0.1:1"))

    async def _pause(self, _attempt: int, _fault: Fault) -> None:
        self.now_s += 0.5


@pytest.fixture
def calls() -> Calls:
    return Calls(CONFIG)


async def ask(calls: Calls) -> int:
    response = await calls.call(wire.RANGE, pb.RangeRequest(key=b"a"), what="get", repeat=True)
    return int(response.count)


async def test_it_gives_up_when_the_time_is_over(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    etcd = Etcd(calls, monkeypatch)
    etcd.attempts = iter([(2.0, False)] * 100)
    with pytest.raises(StoreUnavailable):
        await ask(calls)
    assert etcd.now_s == pytest.approx(1000.0 + 5 * 2.5 - 0.5)
    assert etcd.asked == 5


async def test_a_machine_that_stood_still_costs_one_attempt(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    etcd = Etcd(calls, monkeypatch)
    etcd.attempts = iter([(15.0, False), (2.0, False), (0.1, True)])
    assert await ask(calls) == 7
    assert etcd.asked == 3
