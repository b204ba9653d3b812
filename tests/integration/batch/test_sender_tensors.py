"""Rows of tensors to servers that have no room, drain, and whose connection ends while they compute."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as kserve
from tritonclient.grpc import service_pb2_grpc as rpc

from serving._proto import records_pb2 as pb
from serving.batch.rows.request import RowAnswer, RowRequest
from serving.batch.sending.kserve_grpc import KserveGrpc
from serving.batch.sending.places import Fixed, FixedPlaces, LaneKey, Spot
from serving.batch.sending.sender import Sender
from serving.batch.sending.settings import SenderConfig
from serving.sdk.tensors import decode_response, encode_request

POISON = 666


class Model(rpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Doubles its tensor. Refuses with `words` the first `refusals` times; whoever sends POISON is cut off."""

    def __init__(self) -> None:
        self.refusals = 0
        self.words = ""
        self.asked = 0
        self.poisoned = 0
        self.connections: set[asyncio.StreamWriter] = set()

    async def ServerLive(self, request: Any, context: Any) -> Any:  # noqa: N802, ARG002
        return kserve.ServerLiveResponse(live=True)

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.asked += 1
        if self.refusals:
            self.refusals -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, self.words)
        value = int(np.frombuffer(request.raw_input_contents[0], np.int32)[0])
        if value == POISON:
            self.poisoned += 1
            for connection in self.connections:
                connection.transport.abort()
            await asyncio.Event().wait()
        answer = kserve.ModelInferResponse(model_name="m")
        answer.outputs.add(name="y", datatype="INT32", shape=[1])
        answer.raw_output_contents.append(np.array([2 * value], np.int32).tobytes())
        return answer


@contextlib.asynccontextmanager
async def served(model: Model) -> AsyncIterator[str]:
    """A server behind a relay whose connections can be cut. Gives the relay's address."""
    server = grpc.aio.server()
    rpc.add_GRPCInferenceServiceServicer_to_server(model, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()

    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(1 << 16):
                target.write(data)
                await target.drain()
        target.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection("127.0.0.1", port)
        model.connections.add(writer)
        await asyncio.gather(copy(reader, forth), copy(back, writer))
        model.connections.discard(writer)

    front = await asyncio.start_server(relay, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{front.sockets[0].getsockname()[1]}"
    finally:
        front.close()
        await server.stop(None)


class OnePlace(FixedPlaces):
    def __init__(self, address: str) -> None:
        super().__init__(Fixed((f"http://{address}",)))
        known: dict[str, Any] = {
            "models": [pb.ModelRecord(name="m", versions=["1"])],
            "state": "ready",
            "protocol": "kserve-grpc",
        }
        endpoint = pb.Endpoint(id="one", namespace="default", application="a", address=address, role="direct", **known)
        self._one = (Spot("one", f"http://{address}", endpoint),)

    def spots(self, _lane: LaneKey) -> tuple[Spot, ...]:
        return self._one

    def everywhere(self) -> tuple[Spot, ...]:
        return self._one


@contextlib.asynccontextmanager
async def sender_to(model: Model) -> AsyncIterator[Sender]:
    config = SenderConfig(timeout_s=20, patience_s=60, max_attempts=2)
    async with served(model) as address, Sender(OnePlace(address), KserveGrpc(timeout_s=20), config) as sender:
        yield sender


def row(value: int) -> RowRequest:
    return RowRequest("", encode_request("m", {"x": np.array([value], np.int32)}), "m")


async def all_of(sender: Sender, values: list[int]) -> list[RowAnswer]:
    found = {number: answer async for number, answer in sender.send_all(enumerate(map(row, values)))}
    return [found[number] for number in range(len(values))]


def doubled(answer: RowAnswer) -> int:
    assert answer.fault is None, answer.fault
    return int(decode_response(answer.value)["y"][0])


@pytest.mark.parametrize("words", ["Exceeds maximum queue size", "the replica is draining and takes no new requests"])
async def test_no_room_is_no_attempt(words: str) -> None:
    model = Model()
    model.refusals, model.words = 5, words
    async with sender_to(model) as sender:
        found = await all_of(sender, list(range(20)))
        assert [doubled(one) for one in found] == [2 * number for number in range(20)]
        assert sender.stats.refusals >= 5
        assert sender.stats.retries == 0


async def test_a_row_that_ends_its_replica_is_given_up_and_others_are_answered() -> None:
    model = Model()
    async with sender_to(model) as sender:
        assert doubled(await sender.send(row(1))) == 2
        fault = (await sender.send(row(POISON))).fault
        assert fault is not None
        assert (fault.code, fault.attempts) == ("unavailable", 2)
        assert model.poisoned == 2
        assert doubled(await sender.send(row(3))) == 6
