"""`@batch` in a replica, and alone."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable

import pytest
import tritonclient.grpc.aio as triton
from tritonclient.utils import InferenceServerException

from serving.errors import Internal, InvalidArgument
from serving.python_deployment import Request, batch
from serving.python_deployment.request import current_request
from serving.python_deployment.user_loop import UserLoop
from tests.integration.python_deployment.asking import floats, inputs, until
from tests.integration.python_deployment.conftest import Serve, Served

Open = Callable[[Served], triton.InferenceServerClient]


async def test_requests_are_gathered_and_one_failure_stays_alone(serve: Serve, client: Open) -> None:
    asked = client(serve("Batched"))
    good = [asked.infer("it", inputs(x=floats(i))) for i in range(7)]
    bad = asked.infer("it", inputs(x=floats(9)), parameters={"bad": True})
    *answers, failed = await asyncio.gather(*good, bad, return_exceptions=True)
    assert [answer.as_numpy("y").tolist() for answer in answers] == [[i + 1] for i in range(7)]
    assert {int(answer.as_numpy("size")[0]) for answer in answers} <= {1, 2, 3, 4}
    assert max(int(answer.as_numpy("size")[0]) for answer in answers) > 1
    assert isinstance(failed, InferenceServerException)
    assert "infer failed: ValueError: odd one" in failed.message()


class Recorder:
    """Notes each batch."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    @batch(max_size=3, wait_s=0.02)
    async def double(self, items: list[int]) -> list[object]:
        self.batches.append(items)
        await self.gate.wait()
        if 666 in items:
            raise RuntimeError("all of it")
        return [ValueError(str(item)) if item < 0 else item * 2 for item in items]

    @batch(max_size=2, wait_s=0.001)
    def blocking(self, items: list[int]) -> list[int]:
        return [item + 1 for item in items]

    @batch(max_size=2, wait_s=0.001)
    async def short(self, items: list[int]) -> list[int]:
        return items[1:]


async def test_a_full_batch_does_not_wait_and_a_small_one_waits_its_time() -> None:
    recorder = Recorder()
    assert await asyncio.gather(*(recorder.double(item) for item in range(7))) == [0, 2, 4, 6, 8, 10, 12]
    assert recorder.batches == [[0, 1, 2], [3, 4, 5], [6]]


async def test_while_one_runs_others_gather() -> None:
    recorder = Recorder()
    recorder.gate.clear()
    calls = [asyncio.ensure_future(recorder.double(item)) for item in range(3)]
    await asyncio.sleep(0)
    for item in (3, 4):
        calls.append(asyncio.ensure_future(recorder.double(item)))
        await asyncio.sleep(0.03)  # longer than any would wait
    assert recorder.batches == [[0, 1, 2]]
    recorder.gate.set()
    assert await asyncio.gather(*calls) == [0, 2, 4, 6, 8]
    assert recorder.batches == [[0, 1, 2], [3, 4]]


async def test_failures() -> None:
    recorder = Recorder()
    one, two, three = await asyncio.gather(*(recorder.double(item) for item in (1, -2, 3)), return_exceptions=True)
    assert (one, three) == (2, 6)
    assert isinstance(two, ValueError)
    all_of_it = await asyncio.gather(*(recorder.double(item) for item in (1, 666)), return_exceptions=True)
    assert [str(error) for error in all_of_it] == ["all of it", "all of it"]
    with pytest.raises(Internal, match="answered 0 answers to 1 requests"):
        await recorder.short(1)
    assert await recorder.blocking(4) == 5


async def test_cancelled_ones_are_left_out_and_a_batch_for_nobody_ends() -> None:
    recorder = Recorder()
    first, second = (asyncio.ensure_future(recorder.double(item)) for item in (1, 2))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == 4
    assert recorder.batches == [[2]]
    recorder.gate.clear()
    alone = asyncio.ensure_future(recorder.double(7))
    await until(lambda: recorder.batches[-1] == [7])
    alone.cancel()
    await asyncio.gather(alone, return_exceptions=True)
    recorder.gate.set()
    assert await recorder.double(8) == 16, "the place of the cancelled batch is free again"


class Threaded:
    """Counts how many of its calls run at a time."""

    def __init__(self) -> None:
        self.running = self.most = 0
        self.threads: set[str] = set()
        self.gate = threading.Event()

    @batch(max_size=2, wait_s=0.001)
    def infer(self, items: list[int]) -> list[int]:
        self.running += 1
        self.most = max(self.most, self.running)
        self.threads.add(threading.current_thread().name)
        self.gate.wait(60)
        self.running -= 1
        return items


async def test_a_blocking_batch_for_nobody_keeps_its_place_until_it_has_ended() -> None:
    loop = UserLoop(threads=2)
    loop.start()
    threaded = Threaded()

    async def ask(item: int) -> object:
        return await threaded.infer(item)

    for_nobody = [loop.run(functools.partial(ask, item)) for item in (1, 2)]
    await until(lambda: threaded.running == 1)
    for work in for_nobody:
        work.cancel()
    await asyncio.wait({work.here() for work in for_nobody}, timeout=30)
    later = loop.run(lambda: ask(3))
    await asyncio.sleep(0.1)  # long enough for it to begin beside the first one
    assert not later.ended.done()
    threaded.gate.set()
    assert await asyncio.wait_for(later.result(), 30) == 3
    assert threaded.most == 1
    assert all(name.startswith("user_") for name in threaded.threads), "on the threads of the deployment"
    loop.stop()


class Notes:
    """Notes the request that stands for a batch."""

    @batch(max_size=2, wait_s=5)
    async def infer(self, items: list[int]) -> list[object]:
        return [current_request.get()] * len(items)


async def test_the_first_client_of_a_batch_does_not_give_up_for_the_others() -> None:
    notes = Notes()

    async def ask(request: Request) -> object:
        current_request.set(request)
        return await notes.infer(1)

    first, second = Request("it", {}), Request("it", {})
    both, _ = await asyncio.gather(ask(first), ask(second))
    first.give_up()
    assert isinstance(both, Request)
    assert not both.cancelled


def test_numbers_that_make_no_sense() -> None:
    with pytest.raises(InvalidArgument, match="max_size=0"):
        batch(max_size=0)
