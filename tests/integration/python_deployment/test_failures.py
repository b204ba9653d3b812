"""What clients are told of errors that leave user code."""

from __future__ import annotations

import asyncio
import concurrent.futures
from typing import Any, cast

import pytest

from serving.discovery.client_verdict import Fault, Next, judge
from serving.errors import Cancelled, Code, MeshError, ResourceExhausted, Unavailable
from serving.python_deployment import Handle, Request
from serving.python_deployment.composition import Composition, current_composition
from serving.python_deployment.failure import status_text, told
from serving.python_deployment.inference import DRAINING
from serving.python_deployment.request import current_request


class Failing:
    """Stands for the client of other deployments: every call fails."""

    def __init__(self, error: MeshError) -> None:
        self._error = error

    def submit(self, _: object) -> concurrent.futures.Future[Any]:
        made: concurrent.futures.Future[Any] = concurrent.futures.Future()
        made.set_exception(self._error)
        return made


@pytest.mark.parametrize(
    "error",
    [
        Unavailable(DRAINING),
        Unavailable(DRAINING.upper()),
        Unavailable("the server is shutting down"),
        Unavailable("no connection (not processed)"),
        Unavailable("in ensemble: Exceeds maximum queue size"),
        ResourceExhausted("this replica is full: 2 requests run or wait (max_requests)"),
    ],
)
async def test_an_error_of_another_deployment_is_no_refusal_of_this_one(error: MeshError) -> None:
    current_composition.set(cast(Composition, Failing(error)))
    with pytest.raises(type(error)) as caught:
        await Handle("other").infer({})
    failure = told(caught.value, "infer")
    assert failure.message.startswith("a deployment that this one calls: ")
    verdict = judge(failure.code, failure.message, connected=True, retry_safe=False)
    assert (failure.code, verdict.next) == (Code.UNAVAILABLE, Next.RAISE)
    assert verdict.fault not in (Fault.LEAVING, Fault.BUSY)


def test_neither_is_one_that_quotes_it() -> None:
    quoting = told(Unavailable(f"the ranker failed: {DRAINING}"), "infer")
    assert judge(quoting.code, quoting.message, connected=True, retry_safe=False).next is Next.RAISE
    own = Unavailable("the weights are not there")
    assert told(own, "infer") is own
    full = ResourceExhausted("ten at a time")
    assert told(full, "infer") is full


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a" * 10_000, "a" * 6144),
        ("%" * 10_000, "%" * 2048),
        ("a" + "\N{SNOWMAN}" * 10_000, "a" + "\N{SNOWMAN}" * 682),
        ("\ud800b", "?b"),
        ("", ""),
    ],
)
def test_a_status_is_bounded_by_its_length_in_headers(text: str, expected: str) -> None:
    assert status_text(text) == expected


async def test_a_blocking_call_ends_with_the_request_that_makes_it() -> None:
    future: concurrent.futures.Future[Any] = concurrent.futures.Future()

    class Waiting:
        def submit(self, _: object) -> concurrent.futures.Future[Any]:
            return future

    request = Request("it", {})
    current_composition.set(cast(Composition, Waiting()))
    current_request.set(request)
    calling = asyncio.ensure_future(asyncio.to_thread(Handle("other").infer_blocking, {}))
    await asyncio.sleep(0.1)
    assert not calling.done()
    request.give_up()
    try:
        with pytest.raises(Cancelled):
            await asyncio.wait_for(asyncio.shield(calling), 30)
    finally:
        future.cancel()
    with pytest.raises(Cancelled):
        await asyncio.to_thread(Handle("other").infer_blocking, {})
