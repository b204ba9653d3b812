"""When the collector is told to pass over what waits, and when to look again."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator

import pytest

from serving.broker.collector import STEP, Frozen, resting


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    gc.unfreeze()
    yield
    gc.unfreeze()


def test_it_is_told_when_much_more_waits_and_again_when_far_less_does(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    frozen = Frozen()
    frozen.follow(STEP - 1)
    assert gc.get_freeze_count() == 0
    frozen.follow(STEP)
    first = gc.get_freeze_count()
    assert first > 0
    kept = [[number] for number in range(10_000)]
    frozen.follow(2 * STEP - 1)
    assert gc.get_freeze_count() <= first, "some of it may have gone"
    frozen.follow(2 * STEP)
    assert gc.get_freeze_count() >= len(kept)
    frozen.follow(STEP)
    assert gc.get_freeze_count() > 0
    frozen.follow(STEP - 1)
    assert (gc.get_freeze_count(), frozen.items) == (0, 0)
    frozen.follow(0)
    assert [record.msg for record in caplog.records] == [
        "the collector passes over what waits",
        "the collector passes over what waits",
        "the collector looks at everything again",
    ]


def test_it_rests_also_over_an_error_and_stays_off_where_it_was() -> None:
    def fail() -> None:
        with resting():
            assert not gc.isenabled()
            raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        fail()
    assert gc.isenabled()
    gc.disable()
    try:
        with resting():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
