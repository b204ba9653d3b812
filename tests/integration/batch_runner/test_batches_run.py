"""Batches from upload to download, as clients see them, and what dies or changes on the way."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.batch_world import (
    COMPLETIONS,
    BatchWorld,
    RunnerHandle,
    chat_lines,
    completion_lines,
    counts,
    many_lines,
    sums,
)
from tests.support.waiting import eventually

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1800)]
_SOME = 2500  # lines: a worker has about 1,000 on the way, which may end together
_TOO_MANY = 40_000  # lines, for 40 s; a machine that stands still has half a minute to begin with them


@pytest.fixture(scope="module", autouse=True)
def runner(world: BatchWorld) -> Iterator[RunnerHandle]:
    with ExitStack() as stack:
        yield world.runner("runner-1", stack, concurrency=1)


def test_each_line_has_its_answer_in_the_order_of_the_input(world: BatchWorld) -> None:
    wrong = chat_lines(["And this?"], temperature=9.0).replace(b'"custom_id": "0"', b'"custom_id": "\xc3\xa9 wrong"')
    batch = world.ended(world.order(chat_lines(sums(60)) + b"\n" + wrong))
    assert batch.status == "completed"
    assert counts(batch) == (61, 60, 1)
    answers = world.lines(batch.output_file_id)
    assert [one["custom_id"] for one in answers] == [str(number) for number in range(60)]
    assert len({one["id"] for one in answers}) == 60
    assert all(one["error"] is None and one["response"]["status_code"] == 200 for one in answers)
    bodies = [one["response"]["body"] for one in answers]
    assert "is" in bodies[3]["choices"][0]["message"]["content"]
    assert batch.usage is not None
    assert batch.usage.input_tokens == sum(one["usage"]["prompt_tokens"] for one in bodies)
    assert batch.usage.output_tokens == sum(one["usage"]["completion_tokens"] for one in bodies)
    (fault,) = world.lines(batch.error_file_id)
    assert (fault["custom_id"], fault["response"]["status_code"], fault["error"]) == ("é wrong", 400, None)
    assert "temperature" in fault["response"]["body"]["error"]["message"]
    assert (batch.model, batch.endpoint) == ("tiny-chat", "/v1/chat/completions")
    eventually(lambda: not world.left_behind(), timeout_s=300, what="nothing is left of the job")


def test_completions_are_answered_and_equal_ones_counted_each_time(world: BatchWorld) -> None:
    prompts = ["One and one", "Two and two", "One and one"]
    batch = world.ended(world.order(completion_lines(prompts), endpoint=COMPLETIONS))
    assert (batch.status, batch.endpoint, counts(batch)) == ("completed", COMPLETIONS, (3, 3, 0))
    answers = world.lines(batch.output_file_id)
    assert [one["custom_id"] for one in answers] == ["0", "1", "2"]
    bodies = [one["response"]["body"] for one in answers]
    assert [one["object"] for one in bodies] == ["text_completion"] * 3
    assert bodies[0]["choices"] == bodies[2]["choices"]
    assert batch.usage is not None
    assert batch.usage.output_tokens == sum(one["usage"]["completion_tokens"] for one in bodies)


def test_an_input_that_is_wrong_is_not_run(world: BatchWorld) -> None:
    batch = world.ended(world.order(chat_lines(["a"]) + chat_lines(["b"])))
    assert (batch.status, batch.output_file_id) == ("failed", None)
    assert batch.errors is not None
    assert batch.errors.data is not None
    assert [(one.line, one.code) for one in batch.errors.data] == [(2, "duplicate_custom_id")]


def test_a_killed_runner_goes_on_from_what_was_committed(world: BatchWorld, runner: RunnerHandle) -> None:
    batch_id = world.order(many_lines(_SOME))
    before = counts(world.under_way(batch_id))[1]
    earlier = len(runner.computed(batch_id))
    runner.kill()
    batch = world.ended(batch_id)
    assert (batch.status, counts(batch)) == ("completed", (_SOME, _SOME, 0))
    answers = world.lines(batch.output_file_id)
    assert [one["custom_id"] for one in answers] == [str(number) for number in range(_SOME)]
    runs = runner.computed(batch_id)[earlier:]
    assert runs  # more than one where it was tried again
    assert all(one <= _SOME - before for one in runs)


def test_a_cancelled_batch_keeps_what_is_done(world: BatchWorld) -> None:
    batch_id = world.order(many_lines(4000))
    world.under_way(batch_id)
    world.client.batches.cancel(batch_id)
    batch = world.ended(batch_id, timeout_s=300)
    assert (batch.status, batch.error_file_id) == ("cancelled", None)
    total, completed, failed = counts(batch)
    assert (total, failed) == (4000, 0)
    assert 0 < completed < 4000
    numbers = [int(one["custom_id"]) for one in world.lines(batch.output_file_id)]
    assert len(numbers) == completed
    assert numbers == sorted(set(numbers))


def test_what_is_not_done_in_its_window_has_expired(world: BatchWorld) -> None:
    batch = world.ended(world.order(many_lines(_TOO_MANY), window="40s"))
    assert batch.status == "expired"
    total, completed, failed = counts(batch)
    assert (total, failed) == (_TOO_MANY, 0)
    done = [one["custom_id"] for one in world.lines(batch.output_file_id)] if batch.output_file_id else []
    expired = world.lines(batch.error_file_id)
    assert len(done) == completed
    assert sorted(done + [one["custom_id"] for one in expired], key=int) == [str(number) for number in range(_TOO_MANY)]
    assert {(one["response"], one["error"]["code"]) for one in expired} == {(None, "batch_expired")}


def test_a_tenant_with_many_batches_does_not_starve_another(world: BatchWorld) -> None:
    many = [world.order_as("crowd", many_lines(40)) for _ in range(10)]
    eventually(
        lambda: any(world.word("crowd", one) == "in_progress" for one in many), timeout_s=300, what="one is begun"
    )
    few = world.order_as("lonely", many_lines(40))
    ordered_at = time.time()
    ended_at = eventually(lambda: world.ended_at("lonely", few), timeout_s=300, what="the other tenant's is done")
    assert world.word("lonely", few) == "completed"
    ends = [world.ended_at("crowd", one) for one in many]
    assert sum(ordered_at < end < ended_at for end in ends if end) <= 3
    for one in many:
        world.cancel_as("crowd", one)
    eventually(
        lambda: all(world.word("crowd", one) in ("completed", "cancelled") for one in many),
        timeout_s=300,
        what="all have ended",
    )


def test_a_runner_that_leaves_hands_its_batch_over(world: BatchWorld, runner: RunnerHandle) -> None:
    with ExitStack() as stack:
        batch_id = world.order(many_lines(_SOME))
        before = counts(world.under_way(batch_id))[1]
        runner.drain()
        other = world.runner("runner-2", stack, concurrency=1)
        batch = world.ended(batch_id)
        assert (batch.status, counts(batch)) == ("completed", (_SOME, _SOME, 0))
        numbers = [one["custom_id"] for one in world.lines(batch.output_file_id)]
        assert numbers == [str(number) for number in range(_SOME)]
        runs = other.computed(batch_id)
        assert runs
        assert all(one <= _SOME - before for one in runs)
        eventually(lambda: runner.report().state == "drained", timeout_s=300, what="the first one has left")
