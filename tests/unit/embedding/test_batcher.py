"""Requests in shared calls: order, turns, failures, cancellation, bounds."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from serving.embedding.batcher import BatchLimits, EmbeddingBatcher
from serving.embedding.openvino_embedder import OpenVinoEmbedder
from serving.errors import InvalidArgument, ResourceExhausted, Unavailable
from tests.support.held_embedder import BAD, HeldEmbedder


async def _first_call(held: HeldEmbedder) -> None:
    assert await asyncio.to_thread(held.began.wait, 30)


class Watched:
    """A `BatchObserver` that remembers."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self.batches: list[tuple[int, int]] = []

    def begun(self, waited_s: float) -> None:
        self.waits.append(waited_s)

    def computed(self, inputs: int, tokens: int, seconds: float) -> None:
        assert seconds >= 0
        self.batches.append((inputs, tokens))


async def test_fifty_callers_share_calls_and_get_their_own(embedder: OpenVinoEmbedder) -> None:
    watched = Watched()
    batcher = EmbeddingBatcher(embedder, observer=watched)
    texts = [f"question number {number} about " + "cities and rivers " * (number % 7) for number in range(50)]
    ids = [embedder.tokenize(text).ids for text in texts]
    answers = await asyncio.gather(*(batcher.embed([one]) for one in ids))
    np.testing.assert_allclose(np.vstack(answers), embedder.embed(texts), atol=1e-3)
    assert sum(inputs for inputs, _ in watched.batches) == 50
    assert sum(tokens for _, tokens in watched.batches) == sum(map(len, ids))
    assert len(watched.batches) <= 3
    assert len(watched.waits) == 50
    assert batcher.waiting_tokens == 0
    await batcher.close()


async def test_what_comes_meanwhile_goes_together_within_the_limits() -> None:
    held = HeldEmbedder()
    batcher = EmbeddingBatcher(held, BatchLimits(max_inputs=3, max_tokens=6))
    tasks = [asyncio.create_task(batcher.embed([[7]]))]
    await _first_call(held)
    tasks += [asyncio.create_task(batcher.embed([[size] * size])) for size in (1, 2, 3, 4, 8, 1)]
    await asyncio.sleep(0)
    assert batcher.waiting_tokens == 19
    held.may_go.set()
    answers = await asyncio.gather(*tasks)
    assert [tuple(answer[0]) for answer in answers] == [(1, 7), (1, 1), (2, 2), (3, 3), (4, 4), (8, 8), (1, 1)]
    sizes = [[len(one) for one in call] for call in held.calls]
    assert sizes == [[1], [1, 2, 3], [4], [8], [1]]  # one that is larger than the limit goes alone
    await batcher.close()


async def test_a_large_request_does_not_hold_up_a_small_one() -> None:
    held = HeldEmbedder()
    batcher = EmbeddingBatcher(held, BatchLimits(max_inputs=4))
    large = asyncio.create_task(batcher.embed([[place] for place in range(50)]))
    await _first_call(held)
    small = asyncio.create_task(batcher.embed([[77]]))
    await asyncio.sleep(0)
    held.may_go.set()
    assert (await small)[0][1] == 77
    assert [place for place, call in enumerate(held.calls) if (77,) in call] == [1]  # the very next one
    assert [row[1] for row in await large] == list(range(50))
    await batcher.close()


async def test_a_failure_is_of_its_request_alone() -> None:
    held = HeldEmbedder()
    batcher = EmbeddingBatcher(held)
    tasks = [asyncio.create_task(batcher.embed([[1]]))]
    await _first_call(held)
    tasks += [asyncio.create_task(batcher.embed(inputs)) for inputs in ([[2]], [[3], [BAD]], [[4], [5]])]
    await asyncio.sleep(0)
    held.may_go.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(answers[2], RuntimeError)
    assert [len(answer) for answer in answers if not isinstance(answer, BaseException)] == [1, 1, 2]
    assert batcher.failure == ""
    assert batcher.waiting_tokens == 0
    await batcher.close()


async def test_an_embedder_that_keeps_failing_is_not_well_until_it_answers() -> None:
    held = HeldEmbedder(held=False)
    batcher = EmbeddingBatcher(held, BatchLimits(max_inputs=1))
    for _ in range(3):
        assert batcher.failure == ""
        with pytest.raises(RuntimeError, match="device is gone"):
            await batcher.embed([[BAD], [1], [2]])  # the others of its inputs are not computed any more
    assert "RuntimeError: the device is gone" in batcher.failure
    assert held.calls == [[(BAD,)]] * 3
    assert len(await batcher.embed([[1]])) == 1
    assert batcher.failure == ""
    await batcher.close()


async def test_cancelled_callers_leave_the_queue_and_disturb_nobody() -> None:
    held = HeldEmbedder()
    batcher = EmbeddingBatcher(held, BatchLimits(max_inputs=2))
    running = asyncio.create_task(batcher.embed([[1], [2], [3]]))
    await _first_call(held)
    gone, stays = (asyncio.create_task(batcher.embed([[token]])) for token in (4, 5))
    await asyncio.sleep(0)
    running.cancel()
    gone.cancel()
    await asyncio.wait([running, gone])
    assert batcher.waiting_tokens == 1
    held.may_go.set()
    assert (await stays)[0][1] == 5
    assert held.calls == [[(1,), (2,)], [(5,)]]
    assert running.cancelled()
    await batcher.close()


async def test_the_queue_is_bounded_and_closing_fails_what_waits() -> None:
    held = HeldEmbedder()
    batcher = EmbeddingBatcher(held, BatchLimits(max_waiting_tokens=3))
    running = asyncio.create_task(batcher.embed([[1]]))
    await _first_call(held)
    waiting = [asyncio.create_task(batcher.embed([[1] * 7]))]  # more than the limit: let in, as nothing else waits
    await asyncio.sleep(0)
    with pytest.raises(ResourceExhausted, match="7 tokens of texts wait, with 1 more above 3"):
        await batcher.embed([[1]])
    closing = asyncio.create_task(batcher.close())
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(answer) for answer in answers] == [Unavailable]
    held.may_go.set()
    assert len(await running) == 1
    await closing
    await batcher.close()
    assert batcher.waiting_tokens == 0
    with pytest.raises(Unavailable, match="closed"):
        await batcher.embed([[1]])


async def test_no_inputs_give_no_vectors() -> None:
    batcher = EmbeddingBatcher(HeldEmbedder(held=False))
    assert (await batcher.embed([])).shape == (0, 2)
    await batcher.close()


@pytest.mark.parametrize("limits", [{"max_inputs": 0}, {"max_tokens": -1}, {"max_waiting_tokens": 0}])
def test_limits_are_at_least_one(limits: dict[str, int]) -> None:
    with pytest.raises(InvalidArgument, match="at least 1"):
        BatchLimits(**limits)
