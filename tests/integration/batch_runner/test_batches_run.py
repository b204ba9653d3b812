"""Batches from upload to download, as clients see them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.batch_world import BatchWorld, RunnerHandle

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


@pytest.fixture(scope="module", autouse=True)
def runner(world: BatchWorld) -> Iterator[RunnerHandle]:
    with ExitStack() as stack:
        yield world.runner("runner-1", stack)


def sums(count: int) -> list[str]:
    return [f"What is {number} plus {number % 7}?" for number in range(count)]


def test_each_line_has_its_answer_in_the_order_of_the_input(world: BatchWorld) -> None:
    batch = world.ended(world.order(sums(120)))
    assert batch.status == "completed"
    counts = batch.request_counts
    assert counts is not None
    assert (counts.total, counts.completed, counts.failed) == (120, 120, 0)
    found = world.lines(batch.output_file_id)
    assert [one["custom_id"] for one in found] == [str(number) for number in range(120)]
    print(found[0], batch)
