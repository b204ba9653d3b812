"""What `mesh delete` tells and does about requests that brokers keep."""

from __future__ import annotations

from typing import Any

import pytest

from serving._proto import records_pb2 as pb
from serving.cli.queue_left import Removal
from serving.errors import FailedPrecondition, MeshError, Unavailable
from serving.sdk import QueueStatistics
from serving.store.keys import AppKey

APP = AppKey("default", "app")


def row(broker: str, *, drained: bool = False, queued: int = 0, dead: int = 0) -> QueueStatistics:
    return QueueStatistics(
        broker, "worker", queued, 0, dead, 0, 0.0, credits=0, replicas=0, submitted=0, succeeded=0, failed=0,
        requeued=0, drained=drained,
    )  # fmt: skip


class Client:
    """Of an application with or without a broker; `fails` is what the brokers answer."""

    def __init__(self, *rows: QueueStatistics, fails: MeshError | None = None, broker: bool = True) -> None:
        self.queue = self
        self.rows, self.fails, self.broker = rows, fails, broker
        self.asked: list[tuple[str, bool, float]] = []

    async def revisions(self, _: AppKey) -> tuple[pb.StoredSpec, ...]:
        kind: dict[str, Any] = {"broker": pb.BrokerDeployment()} if self.broker else {"python": pb.PythonDeployment()}
        return (pb.StoredSpec(spec=pb.ApplicationSpec(deployments=[pb.DeploymentSpec(**kind)])),)

    async def statistics(self, _: AppKey, *, timeout_s: float) -> tuple[QueueStatistics, ...]:
        assert timeout_s > 0
        if self.fails is not None:
            raise self.fails
        return self.rows

    async def drain(
        self, _: AppKey, broker: str = "", *, undo: bool = False, discard_s: float = 0.0, timeout_s: float
    ) -> None:
        assert timeout_s > 0
        self.asked.append((broker, undo, discard_s))


def removal(client: Client, *, discard: bool) -> Removal:
    return Removal(client, APP, discard=discard, timeout_s=120.0)  # type: ignore[arg-type]


async def test_nothing_is_told_where_nothing_is_kept_and_nothing_asked_where_there_is_no_broker() -> None:
    async with removal(Client(row("queue-r1-0")), discard=False) as left:
        pass
    assert left.lines() == []
    without = Client(fails=Unavailable("nobody is there"), broker=False)
    async with removal(without, discard=True) as left:
        pass
    assert (left.lines(), without.asked) == ([], [])


async def test_what_stays_is_told() -> None:
    client = Client(row("queue-r1-0", queued=1200), row("queue-r1-1", dead=3))
    async with removal(client, discard=False) as left:
        pass
    (line,) = left.lines()
    assert line.startswith("its brokers kept 1,200 requests that wait or run and 3 dead ones; their journals stay on")
    assert "`mesh queue journals`" in line
    assert client.asked == []
    assert left.shape() == {"live": 1200, "dead": 3, "removed": False, "unknown": ""}


async def test_brokers_that_do_not_answer_are_told_of_and_keep_everything_where_it_was_to_go() -> None:
    async with removal(Client(fails=Unavailable("nobody is there")), discard=False) as left:
        pass
    assert left.lines()[0].startswith("its brokers did not say what they keep (nobody is there); their journals stay")
    deleted = False
    with pytest.raises(FailedPrecondition, match="nobody is there; nothing was deleted"):
        async with removal(Client(fails=Unavailable("nobody is there")), discard=True):
            deleted = True
    assert not deleted


async def test_brokers_are_told_to_remove_what_they_have_and_not_to_when_the_deletion_fails() -> None:
    client = Client(row("queue-r1-0", queued=1), row("queue-r1-1", drained=True))
    async with removal(client, discard=True) as left:
        assert client.asked == [("", False, 120.0)]
    assert left.lines() == ["its brokers kept 1 requests that wait or run and 0 dead ones: they are removed"]
    assert len(client.asked) == 1

    client.asked.clear()
    with pytest.raises(Unavailable):
        async with removal(client, discard=True):
            raise Unavailable("no keeper")
    assert client.asked == [("", False, 120.0), ("queue-r1-0", True, 0.0), ("queue-r1-1", False, 0.0)]
