"""Callbacks as clients, receivers and operators see them: real etcd, broker and replica processes, SDK and command."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path

import numpy as np
import pytest

from serving import AsyncMeshClient, Callback, verify_webhook
from serving._proto import records_pb2 as pb
from serving.errors import FailedPrecondition, InvalidArgument, NotFound, PermissionDenied
from serving.sdk import QueueItem
from tests.support.broker_serving import WORKER
from tests.support.broker_world import World, mesh, mesh_json
from tests.support.receiver import Receiver
from tests.support.waiting import aeventually

pytestmark = pytest.mark.timeout(900)
SECRET = "whsec_" + base64.b64encode(b"s" * 32).decode()


def callbacks(folder: Path) -> pb.BrokerCallbacks:
    """Loopback, quickly, with one secret; results are to be fetched."""
    (folder / "secrets").mkdir()
    (folder / "secrets" / "hook").write_text(SECRET)
    return pb.BrokerCallbacks(
        networks=["127.0.0.0/8"], allow_http=True, secrets=str(folder / "secrets"), max_attempts=3, first_delay_s=0.05,
        max_delay_s=0.1, max_inline_bytes=1,
    )  # fmt: skip


async def callback_is(client: AsyncMeshClient, world: World, item: str, state: str) -> QueueItem:
    async def look() -> QueueItem | None:
        found = await client.queue.item(world.application, item)
        return found if found.callback is not None and found.callback.state == state else None

    found = await aeventually(look, what=f"the callback is {state}")
    assert found is not None
    return found


async def test_a_receiver_fetches_what_it_is_told_of(world: World, client: AsyncMeshClient, tmp_path: Path) -> None:
    world.broker(callbacks=callbacks(tmp_path))
    async with Receiver() as receiver:
        ticket = await client.submit(
            world.application, WORKER, {"n": np.array([21])}, callback=Callback(receiver.url(), "hook", ["SUCCEEDED"])
        )
        await asyncio.to_thread(world.worker)
        (one,) = await receiver.told()
        data = verify_webhook(one.headers, one.body, SECRET)["data"]
        assert (data["id"], data["application"], data["result"]) == (ticket.id, f"default/{world.application}", None)
        outputs = await client.ticket(data["ticket"]).result()
        assert int(outputs["doubled"][0]) == 42
        await callback_is(client, world, ticket.id, "DELIVERED")


async def test_operators_see_what_was_not_taken_and_send_it_again(
    world: World, client: AsyncMeshClient, tmp_path: Path
) -> None:
    world.broker(callbacks=callbacks(tmp_path))
    app = world.application
    async with Receiver(lambda _: 500) as receiver:
        ticket = await client.submit(app, WORKER, {"n": np.array([1])}, callback=receiver.url("/x?token=hidden"))
        plain = await client.submit(app, WORKER, {"n": np.array([2])})
        await asyncio.gather(ticket.cancel(), plain.cancel())
        item = await callback_is(client, world, ticket.id, "DEAD")
        assert item.callback is not None
        assert (item.callback.tries, item.callback.status, item.callback.secret) == (3, 500, "")
        assert [one.id for one in await client.queue.callbacks(app)] == [ticket.id]
        assert await client.queue.callbacks(app, state="DUE") == ()

        listed, text, shown, due = await asyncio.gather(
            mesh_json(world, "callbacks", "list", app),
            mesh(world, "callbacks", "list", app),
            mesh(world, "show", app, ticket.id),
            mesh(world, "callbacks", "list", app, "--state", "due"),
        )
        (row,) = listed["items"]
        assert (row["id"], row["state"], row["callback"]["status"]) == (ticket.id, "CANCELLED", 500)
        assert "answered with 500; 3 tries were made" in text[1]
        assert "DEAD, 3 tries, status 500" in shown[1]
        assert "hidden" not in text[1] + shown[1] + str(listed)
        assert "no callbacks that are due" in due[1]

        receiver.answer = lambda _: 200
        retried = await mesh_json(world, "callbacks", "retry", app, ticket.id)
        assert retried["callback"]["state"] == "DUE"
        await callback_is(client, world, ticket.id, "DELIVERED")
        with pytest.raises(FailedPrecondition, match="is DELIVERED"):
            await client.queue.retry_callback(app, ticket.id)
        with pytest.raises(NotFound, match="has no callback"):
            await client.queue.retry_callback(app, plain.id)


async def test_what_cannot_be_called_back_is_refused(world: World, client: AsyncMeshClient, tmp_path: Path) -> None:
    world.broker(callbacks=callbacks(tmp_path))
    wrong = {
        NotFound: Callback("http://127.0.0.1/", "other"),
        PermissionDenied: "https://10.0.0.1/",
        InvalidArgument: Callback("http://127.0.0.1/", "hook", ["RUNNING"]),
    }
    for error, callback in wrong.items():
        with pytest.raises(error):
            await client.submit(world.application, WORKER, {"n": np.array([1])}, callback=callback)
    with pytest.raises(InvalidArgument, match="allowed are DEAD, DUE"):
        await client.queue.callbacks(world.application, state="WAITS")
    assert await client.queue.list(world.application) == ()
