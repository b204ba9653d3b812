"""What callbacks say, how they are signed, and where they may go: a real broker, real receivers."""

from __future__ import annotations

import asyncio
import base64
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
import pytest_asyncio
from tritonclient.grpc import service_pb2

from serving._proto import broker_pb2 as bpb
from serving.broker.callbacks.settings import CallbackSettings
from serving.webhooks import verify_webhook
from tests.support.callbacks import callback_is, ended, settings
from tests.support.receiver import Receiver
from tests.support.served_broker import Served

CODE = grpc.StatusCode
OLD = "whsec_" + base64.b64encode(b"o" * 24).decode()
NEW = "whsec_" + base64.b64encode(b"n" * 32).decode()


@pytest_asyncio.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with Served(tmp_path, callbacks=settings()) as made:
        yield made


def tensors(**outputs: Any) -> bytes:
    response = service_pb2.ModelInferResponse(model_name="worker", model_version="1")
    for name, (datatype, array) in outputs.items():
        response.outputs.add(name=name, datatype=datatype, shape=array.shape)
        response.raw_output_contents.append(array.tobytes())
    return bytes(response.SerializeToString())


# ---------------------------------------------------------------------------------------------------- what is told


async def test_the_end_is_told_with_its_result(served: Served, receiver: Receiver) -> None:
    answer = tensors(y=("FP32", np.array([[1.5, 2.0]], np.float32)))
    ticket = await ended(served, receiver.url("/a?key=1"), answer, tenant="t", labels={"kind": "x"})
    (one,) = await receiver.told()
    item = await served.get(ticket)
    data = one.data
    assert (data["id"], data["state"], data["deployment"], data["tenant"]) == (item.id, "SUCCEEDED", "worker", "t")
    assert (data["attempts"], data["labels"], data["reason"]) == (1, {"kind": "x"}, "")
    (output,) = data["result"]["infer"]["outputs"]
    assert output == {"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [1.5, 2.0]}
    assert "ticket" not in data
    assert ticket.rpartition(".")[2] not in one.body.decode(), "the secret of the ticket is not told"
    assert data["submitted_at"] <= data["started_at"] <= data["ended_at"]
    assert one.headers["Content-Type"] == "application/json"
    assert "webhook-signature" not in one.headers
    assert "." not in one.id
    status = await callback_is(served, ticket, "DELIVERED")
    assert (status.url, status.tries, status.status) == (f"{receiver.url('/a')}?...", 1, 204)
    assert served.metric("mesh_broker_callback_tries_total", outcome="delivered") == 1
    assert served.metric("mesh_broker_callbacks_due") == 0


async def test_a_large_result_is_to_be_fetched_with_the_ticket(tmp_path: Path, receiver: Receiver) -> None:
    async with Served(tmp_path, callbacks=settings(max_inline_bytes=100), application="ns/app") as served:
        ticket = await ended(served, receiver.url(), b"x" * 101)
        (one,) = await receiver.told()
        assert one.data["result"] is None
        assert one.data["result_bytes"] > 101
        assert one.data["ticket"] == f"ns/app/{ticket}"


@pytest.mark.parametrize(
    "answer",
    [tensors(y=("FP32", np.array([np.nan], np.float32))), b"\xff no message", tensors(y=("INT8", np.zeros(3)))],
)
async def test_what_json_cannot_say_is_to_be_fetched(served: Served, receiver: Receiver, answer: bytes) -> None:
    ticket = await ended(served, receiver.url(), answer)
    (one,) = await receiver.told()
    assert (one.data["result"], one.data["ticket"]) == (None, ticket)


async def test_answers_of_openai_and_failures_are_told(served: Served, receiver: Receiver) -> None:
    results = [
        bpb.Result(http=bpb.HttpAnswer(status=200, content_type="application/json; x=y", body='{"a": "ü"}'.encode())),
        bpb.Result(http=bpb.HttpAnswer(status=429, content_type="text/plain", body=b"later")),
        bpb.Result(failure=bpb.Failure(code=3, message="no")),
        bpb.Result(infers=bpb.InferAnswers(responses=[tensors(i=("INT32", np.array([7], np.int32)))])),
    ]
    replica = await served.pulling(len(results))
    for result in results:
        await served.submit(callback=bpb.Callback(url=receiver.url()))
        work = await replica.work()
        await replica.say(done=bpb.Done(item=work.item, attempt=work.attempt, result=result))
    told = {one.data["id"]: one.data for one in await receiver.told(len(results))}
    found = [told[key] for key in sorted(told, key=lambda name: int(name.rpartition(".")[2]))]
    assert [one["state"] for one in found] == ["SUCCEEDED", "FAILED", "FAILED", "SUCCEEDED"]
    assert found[0]["result"]["http"]["body"] == {"a": "ü"}
    assert found[1]["result"]["http"] == {"status": 429, "content_type": "text/plain", "body": "later"}
    assert found[2]["result"] == {"failure": {"code": "INVALID_ARGUMENT", "message": "no"}}
    assert found[3]["result"]["infers"][0]["outputs"][0]["data"] == [7]


async def test_every_end_is_told_and_only_those_that_are_wanted(served: Served, receiver: Receiver) -> None:
    wanted = bpb.Callback(url=receiver.url("/wanted"))
    only_dead = bpb.Callback(url=receiver.url("/dead"), states=[bpb.DEAD])
    cancelled = [await served.submit(callback=one) for one in (wanted, only_dead)]
    expired = await served.submit(callback=wanted, deadline_s=0.2)
    for ticket in cancelled:
        await served.stub.Cancel(bpb.CancelRequest(ticket=ticket))
    told = await receiver.told(2)
    assert {one.data["state"] for one in told} == {"CANCELLED", "EXPIRED"}
    assert {one.path for one in told} == {"/wanted"}
    assert all(one.data["reason"] and one.data["result"] is None and "ticket" not in one.data for one in told)
    await callback_is(served, cancelled[1], "UNWANTED")
    await callback_is(served, expired, "DELIVERED")


async def test_an_item_that_is_put_back_tells_of_its_next_end_under_another_id(
    served: Served, receiver: Receiver
) -> None:
    ticket = await served.submit(callback=bpb.Callback(url=receiver.url()))
    await served.stub.Cancel(bpb.CancelRequest(ticket=ticket))
    await callback_is(served, ticket, "DELIVERED")
    await served.stub.Retry(bpb.RetryRequest(ticket=ticket))
    await callback_is(served, ticket, "WAITS")
    replica = await served.pulling()
    await replica.finish(await replica.work())
    first, second = await receiver.told(2)
    assert [first.data["state"], second.data["state"]] == ["CANCELLED", "SUCCEEDED"]
    assert first.id != second.id


# ---------------------------------------------------------------------------------------------------- signatures


async def test_it_is_signed_with_all_keys_of_its_secret_also_while_they_change(
    tmp_path: Path, receiver: Receiver
) -> None:
    folder = tmp_path / "secrets"
    folder.mkdir()
    (folder / "hook").write_text(f"{OLD}\n")
    async with Served(tmp_path / "j", callbacks=settings(secrets=folder)) as served:
        callback = bpb.Callback(url=receiver.url(), secret_name="hook")
        await served.stub.Cancel(bpb.CancelRequest(ticket=await served.submit(callback=callback)))
        (one,) = await receiver.told()
        assert verify_webhook(one.headers, one.body, OLD)["type"] == "item.cancelled"
        (folder / "hook").write_text(f"# from now on\n{NEW}\n{OLD}\n")
        await served.stub.Cancel(bpb.CancelRequest(ticket=await served.submit(callback=callback)))
        two = (await receiver.told(2))[1]
        for secret in (OLD, NEW):
            assert verify_webhook(two.headers, two.body, secret)["data"]["state"] == "CANCELLED"
    kept = await asyncio.to_thread(lambda: [file.read_bytes() for file in (tmp_path / "j").iterdir()])
    assert not any(key.encode() in data for key in (OLD, NEW) for data in kept), "secrets are not in the journal"


@pytest.mark.parametrize(
    ("callback", "code"),
    [
        ({"url": "ftp://127.0.0.1/"}, CODE.INVALID_ARGUMENT),
        ({"url": "http://user:word@127.0.0.1/"}, CODE.INVALID_ARGUMENT),
        ({"url": "http://127.0.0.1\\@example.org/"}, CODE.INVALID_ARGUMENT),
        ({"url": "http://127.0.0.1:70000/"}, CODE.INVALID_ARGUMENT),
        ({"url": "http://2130706433/"}, CODE.INVALID_ARGUMENT),
        ({"url": "http://127.0x1/"}, CODE.INVALID_ARGUMENT),
        ({"url": "http://127.0.0.1/" + "x" * 2048}, CODE.INVALID_ARGUMENT),
        ({"url": "http://10.0.0.1/"}, CODE.PERMISSION_DENIED),
        ({"url": "http://[::ffff:10.0.0.1]/"}, CODE.PERMISSION_DENIED),
        ({"secret_name": "other"}, CODE.NOT_FOUND),
        ({"secret_name": "../hook"}, CODE.INVALID_ARGUMENT),
        ({"secret_name": "bad"}, CODE.FAILED_PRECONDITION),
        ({"states": [bpb.RUNNING]}, CODE.INVALID_ARGUMENT),
        ({"states": [99]}, CODE.INVALID_ARGUMENT),
    ],
)
async def test_what_could_not_be_sent_is_refused_at_once(
    tmp_path: Path, callback: dict[str, Any], code: grpc.StatusCode
) -> None:
    (tmp_path / "bad").write_text("whsec_short")
    async with Served(tmp_path / "j", callbacks=settings(secrets=tmp_path)) as served:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await served.submit(callback=bpb.Callback(**{"url": "http://127.0.0.1/", **callback}))
        assert refused.value.code() is code
        assert (await served.queue()).queued == 0


async def test_a_broker_may_be_told_not_to_call_back(tmp_path: Path) -> None:
    async with Served(tmp_path, callbacks=settings(disabled=True)) as served:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await served.submit(callback=bpb.Callback(url="http://127.0.0.1/"))
        assert refused.value.code() is CODE.UNIMPLEMENTED


# ---------------------------------------------------------------------------------------------------- where it may go


async def test_by_default_nothing_but_https_to_public_addresses(tmp_path: Path) -> None:
    async with Served(tmp_path, callbacks=CallbackSettings()) as served:
        for url in ("http://example.org/", "https://127.0.0.1/", "https://169.254.169.254/latest", "https://[::1]/"):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await served.submit(callback=bpb.Callback(url=url))
            assert refused.value.code() is CODE.PERMISSION_DENIED


async def test_a_name_is_judged_by_the_address_that_is_connected_to(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that meant a public address when it was looked at."""
    real = socket.getaddrinfo
    asked: list[str] = []

    def rebound(host: Any, *rest: Any, **more: Any) -> Any:
        asked.append(host)
        return real("127.0.0.1" if host == "hooks.example.org" else host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", rebound)
    for host in ("hooks.example.org", "localhost"):
        changes = {"networks": (), "max_attempts": 2}
        async with Served(tmp_path / host, callbacks=settings(**changes)) as served:
            status = await callback_is(served, await ended(served, receiver.url(host=host)), "DEAD")
            assert status.reason.startswith("its address is not public"), status.reason
            assert status.status == 0
    assert "hooks.example.org" in asked
    assert not receiver.received


async def test_a_host_that_is_not_allowed_any_more_gets_nothing(tmp_path: Path, receiver: Receiver) -> None:
    await receiver.stop()
    async with Served(tmp_path, callbacks=settings()) as served:
        ticket = await ended(served, receiver.url())
        await callback_is(served, ticket, "DUE")
    await receiver.start()
    strict = settings(hosts=("*.example.org",), max_attempts=1)
    async with Served(tmp_path, callbacks=strict) as served:
        status = await callback_is(served, ticket, "DEAD")
        assert "not among broker.callbacks.hosts" in status.reason
    assert not receiver.received
