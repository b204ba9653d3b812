"""How long a batch whose job broke rests, at all runners and at the one where it broke, and what is told of it."""

from __future__ import annotations

import pytest

from serving._proto import batch_pb2 as pb
from serving.batch.checkpoint import DiskFull
from serving.batch.orders.batch import Batch
from serving.batch.runner.attempts import ModelAway, Rests, goes_alone, is_broken, rests_until, told
from serving.batch.store.content import StorageFull
from serving.errors import DataLoss, StoreUnavailable, Unavailable
from serving.stamps import stamp
from tests.support.batches import T0, WINDOW_S, order_of

NAME = ("default", "batch_1")


def broken(attempts: int, *, at: float = T0, cancelled_at: float | None = None) -> Batch:
    """`attempts` broke, the last one `at`."""
    status = pb.BatchStatus(state=pb.IN_PROGRESS, attempts=attempts, updated_at=stamp(at))
    cancel = None if cancelled_at is None else pb.BatchCancel(asked_at=stamp(cancelled_at))
    return Batch(order_of(), status, cancel)


def test_rests_grow_up_to_ten_minutes() -> None:
    rests = [rests_until(broken(attempts)) - T0 for attempts in range(1, 17)]
    assert rests[:4] == [2, 4, 8, 16]
    assert rests[-1] == 600
    assert rests == sorted(rests)
    assert sum(rests) > 3600, "sixteen attempts take more than an hour"
    assert rests_until(broken(0)) == 0.0
    assert rests_until(Batch(order_of())) == 0.0


def test_no_rest_holds_up_an_end() -> None:
    assert rests_until(broken(9, cancelled_at=T0 + 5)) == T0 + 5
    late = T0 + WINDOW_S
    assert rests_until(broken(9, at=late - 5)) == late
    assert rests_until(broken(9, at=late + 5)) == late + 5 + 512, "its end broke, too"
    assert rests_until(broken(9, at=T0 + 6, cancelled_at=T0 + 5)) == T0 + 6 + 512


def test_where_it_broke_it_is_left_to_others_for_longer() -> None:
    rests, batch = Rests(), broken(3)
    pause_s = rests.broke(NAME, batch, 3, T0)
    everywhere = rests_until(batch)
    assert T0 + pause_s > everywhere + 1
    assert not Rests().rests(NAME, batch, everywhere)
    assert rests.rests(NAME, batch, everywhere)
    assert not rests.rests(NAME, batch, T0 + pause_s)
    assert not rests.rests(NAME, broken(3, cancelled_at=T0 + 1), T0 + 1), "a cancel is heard at once"
    rests.keep(lambda _: False)
    assert not rests.rests(NAME, batch, everywhere)


@pytest.mark.parametrize(
    ("attempts", "most", "under_way", "alone"),
    [
        (0, 16, False, False),
        (1, 16, False, False),  # a runner ends for many reasons
        (2, 16, False, True),
        (2, 16, True, False),  # the second attempt runs
        (3, 16, True, True),
        (1, 2, False, True),  # the last one that is run
        (0, 1, False, False),
        (1, 1, True, False),
    ],
)
def test_whose_runners_died_goes_alone(attempts: int, most: int, under_way: bool, alone: bool) -> None:
    assert goes_alone(pb.BatchStatus(attempts=attempts), most, under_way=under_way) is alone
    told_of = pb.BatchStatus(attempts=attempts, last_failure="the disk of the file store is full")
    assert not goes_alone(told_of, most, under_way=under_way), "its runner lived to tell"
    assert not goes_alone(None, most)


def test_what_it_waits_for_makes_it_rest_here_only() -> None:
    rests, batch = Rests(), broken(0)
    pauses = [rests.broke(NAME, batch, 0, T0) for _ in range(9)]
    assert 1 < pauses[0] < 3
    assert 80 < pauses[-1] < 160
    rests.went_well(NAME)
    assert rests.broke(NAME, batch, 0, T0) < 3


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (DiskFull("/var/x is full"), "the disk of the file store is full"),
        (StorageFull("/var/x is full"), "the disk of the file store is full"),
        (Unavailable("/var/x is not mounted"), "what it needs of the mesh did not answer"),
        (DataLoss("/var/x has a hole"), "internal error"),
        (OSError("/var/x"), "internal error"),
    ],
)
def test_tenants_are_told_no_paths(error: Exception, what: str) -> None:
    assert told(error, 7) == f"{what} (epoch 7 in the logs of runners)"
    assert is_broken(error)


def test_what_is_waited_for_is_no_fault() -> None:
    assert not is_broken(ModelAway("m"))
    assert not is_broken(StoreUnavailable("etcd"))
