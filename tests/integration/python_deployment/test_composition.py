"""The client of a deployment that calls others, where etcd does not answer."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import weakref

import pytest

from serving.config import EtcdConfig
from serving.errors import DeadlineExceeded, Unavailable
from serving.python_deployment.composition import Composition, OutgoingCall
from serving.store.keys import AppKey
from tests.integration.python_deployment.asking import until


class Marker:
    """Something that a request's context holds."""


marked: contextvars.ContextVar[Marker | None] = contextvars.ContextVar("marked", default=None)


def call(timeout_s: float) -> OutgoingCall:
    return OutgoingCall(deployment="other", model="other", inputs={}, timeout_s=timeout_s)


async def test_opening_is_shared_bounded_and_of_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.python_deployment.composition._FIRST_VIEW_S", 600.0)  # it opens all the time
    before = asyncio.all_tasks()
    etcd = EtcdConfig(endpoints=("127.0.0.1:1",))
    composition = Composition(AppKey("default", "app"), etcd, None)
    marker = Marker()
    gone = weakref.ref(marker)
    context = contextvars.copy_context()
    context.run(marked.set, marker)
    first = context.run(composition.submit, call(1))
    del context, marker
    await asyncio.sleep(0.1)
    first.cancel()
    del first

    def freed() -> bool:
        gc.collect()
        return gone() is None

    await until(freed, timeout_s=30)  # a loop keeps the timer of its limit, and with it its context, until that has run
    with pytest.raises(DeadlineExceeded, match=r"within 0\.3 s"):
        await asyncio.wrap_future(composition.submit(call(0.3)))
    await composition.close()
    await until(lambda: asyncio.all_tasks() == before)
    with pytest.raises(Unavailable):
        await asyncio.wrap_future(composition.submit(call(1)))
