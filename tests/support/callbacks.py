"""What tests of callbacks share: settings that let them go to loopback, and quickly, and what came of one."""

from __future__ import annotations

from typing import Any

from serving._proto import broker_pb2 as bpb
from serving.broker.callbacks.settings import CallbackSettings
from tests.support.served_broker import Served
from tests.support.waiting import aeventually

LOCAL = {"networks": ("127.0.0.0/8", "::1/128"), "allow_http": True}
QUICK = {**LOCAL, "first_delay_s": 0.05, "max_delay_s": 0.2, "max_attempts": 1_000_000}


def settings(**changes: Any) -> CallbackSettings:
    return CallbackSettings(**{**QUICK, **changes})


async def ended(served: Served, url: str, answer: bytes = b"answer", **fields: Any) -> str:
    """The ticket of an item that a replica has answered."""
    ticket = await served.submit(callback=bpb.Callback(url=url), **fields)
    replica = await served.pulling()
    await replica.finish(await replica.work(), answer)
    await replica.close()
    return ticket


async def callback_is(served: Served, ticket: str, state: str) -> bpb.CallbackStatus:
    async def look() -> bpb.CallbackStatus | None:
        status = (await served.get(ticket)).callback
        return status if bpb.CallbackState.Name(status.state) == f"CALLBACK_{state}" else None

    found = await aeventually(look, what=f"the callback is {state}")
    assert found is not None
    return found
