"""Single requests in one call: order, failures, cancellation, bounds."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import numpy as np
import pytest

from serving.embedding.batcher import EmbeddingBatcher
from serving.embedding.embedder import Embeddings, Vectors
from serving.embedding.openvino_embedder import OpenVinoEmbedder
from serving.errors import InvalidArgument, ResourceExhausted, Unavailable


class HeldEmbedder:
    """Computes when it is let: so that a test knows what waits meanwhile."""

    dimension = 2
    max_tokens = 8
    name = "held"

    def __init__(self) -> None:
        self.may_go = threading.Event()
        self.began = threading.Event()
        self.calls: list[list[str]] = []

    def encode(self, texts: Sequence[str]) -> Embeddings:
        self.calls.append(list(texts))
        self.began.set()
        assert self.may_go.wait(30)
        if "bad" in texts:
            raise InvalidArgument("text is bad")
        vectors = np.array([[len(text), 1] for text in texts], dtype=np.float32)
        return Embeddings(vectors, (1,) * len(texts), (False,) * len(texts))

    def embed(self, texts: Sequence[str]) -> Vectors:
        return self.encode(texts).vectors


async def _first_call(held: HeldEmbedder) -> None:
    assert await asyncio.to_thread(held.began.wait, 30)


async def test_fifty_callers_share_calls_and_get_their_own(embedder: OpenVinoEmbedder) -> None:
    batcher = EmbeddingBatcher(embedder)
    texts = [f"question number {number} about " + "cities and rivers " * (number % 7) for number in range(50)]
    answers = await asyncio.gather(*(batcher.embed(text) for text in texts))
    np.testing.assert_allclose(np.vstack([answer.vector for answer in answers]), embedder.embed(texts), atol=1e-3)
    assert batcher.texts == 50
    assert batcher.calls <= 3
    await batcher.close()


async def test_what_comes_meanwhile_goes_together() -> None:
    held = HeldEmbedder()
    batcher = EmbeddingBatcher(held, max_texts=3)
    tasks = [asyncio.create_task(batcher.embed("first"))]
    await _first_call(held)
    tasks += [asyncio.create_task(batcher.embed("x" * size)) for size in range(1, 5)]
    await asyncio.sleep(0)
    held.may_go.set()
    answers = await asyncio.gather(*tasks)
    assert [answer.vector[0] for answer in answers] == [5, 1, 2, 3, 4]
    assert held.calls == [["first"], ["x", "xx", "xxx"], ["xxxx"]]
    await batcher.close()


async def test_a_bad_text_fails_alone() -> None:
    held = HeldEmbedder()
    batcher = EmbeddingBatcher(held)
    tasks = [asyncio.create_task(batcher.embed("first"))]
    await _first_call(held)
    tasks += [asyncio.create_task(batcher.embed(text)) for text in ("good", "bad", "fine!")]
    await asyncio.sleep(0)
    held.may_go.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(answers[2], InvalidArgument)
    assert [answer.vector[0] for answer in answers if not isinstance(answer, BaseException)] == [5, 4, 5]
    await batcher.close()


async def test_cancelled_callers_leave_the_queue_and_disturb_nobody() -> None:
    held = HeldEmbedder()
    batcher = EmbeddingBatcher(held)
    running = asyncio.create_task(batcher.embed("running"))
    await _first_call(held)
    waiting = [asyncio.create_task(batcher.embed(text)) for text in ("gone", "stays")]
    await asyncio.sleep(0)
    running.cancel()
    waiting[0].cancel()
    await asyncio.wait([running, waiting[0]])
    held.may_go.set()
    assert (await waiting[1]).vector[0] == 5
    assert held.calls == [["running"], ["stays"]]
    assert running.cancelled()
    await batcher.close()


async def test_the_queue_is_bounded_and_closing_fails_what_waits() -> None:
    held = HeldEmbedder()
    batcher = EmbeddingBatcher(held, max_waiting=2)
    running = asyncio.create_task(batcher.embed("running"))
    await _first_call(held)
    waiting = [asyncio.create_task(batcher.embed(text)) for text in "ab"]
    await asyncio.sleep(0)
    with pytest.raises(ResourceExhausted, match="2 texts wait"):
        await batcher.embed("c")
    closing = asyncio.create_task(batcher.close())
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(answer) for answer in answers] == [Unavailable, Unavailable]
    held.may_go.set()
    assert (await running).vector[0] == 7
    await closing
    with pytest.raises(Unavailable, match="closed"):
        await batcher.embed("d")
