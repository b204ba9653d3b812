"""`python -m benchmarks.queue_client SIDE [ARGUMENT ...]`: a client of one side of `broker_peers`.

Prints `{"ready": true}`, then answers each line with a `Cell` by a line with its `Outcome`.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import random
import sys
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any, Final

import grpc.aio
import numpy as np
from tritonclient.grpc import service_pb2 as kserve

from benchmarks.broker_simulation import Request
from benchmarks.queue_load import Cell, Send, play
from benchmarks.queue_sleeper import MODEL
from serving import AsyncMeshClient, Connection
from serving.config import EtcdConfig
from serving.errors import InvalidArgument

APPLICATION: Final = "bench"
_INFER: Final = "/inference.GRPCInferenceService/ModelInfer"
_ROUND_ROBIN: Final = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})


@contextlib.asynccontextmanager
async def broker(*etcd: str) -> AsyncIterator[Send]:
    """The SDK: a submit and a wait for its result. What it says of a request is one label, as in the simulation."""
    async with AsyncMeshClient(Connection(EtcdConfig(endpoints=etcd))) as client:

        async def send(request: Request) -> None:
            inputs = {"seconds": np.array([request.takes_s])}
            labels = {"task": "long" if request.long else "short"}
            ticket = await client.submit(APPLICATION, MODEL, inputs, labels=labels)
            await ticket.result()

        yield send


@contextlib.asynccontextmanager
async def round_robin(*replicas: str) -> AsyncIterator[Send]:
    """gRPC's own policy of that name over all replicas; of one address, as of a proxy, it is that address."""
    options = [("grpc.service_config", _ROUND_ROBIN)]
    async with grpc.aio.insecure_channel(f"ipv4:{','.join(replicas)}", options=options) as channel:
        yield lambda request: _infer(channel, request)


@contextlib.asynccontextmanager
async def at_random(*replicas: str) -> AsyncIterator[Send]:
    chance = random.Random(1)
    async with contextlib.AsyncExitStack() as stack:
        channels = [await stack.enter_async_context(grpc.aio.insecure_channel(address)) for address in replicas]
        yield lambda request: _infer(chance.choice(channels), request)


async def _infer(channel: grpc.aio.Channel, request: Request) -> None:
    seconds = np.array([request.takes_s])
    plain: Any = channel.unary_unary  # its types know no calls without serializers
    asked = kserve.ModelInferRequest(
        model_name=MODEL,
        inputs=[{"name": "seconds", "datatype": "FP64", "shape": [1]}],
        raw_input_contents=[seconds.tobytes()],
    )
    answer = kserve.ModelInferResponse.FromString(await plain(_INFER)(asked.SerializeToString()))
    if answer.raw_output_contents[0] != seconds.tobytes():
        raise InvalidArgument(f"request {request.number} was answered with something else")


SIDES: Final = {"broker": broker, "round_robin": round_robin, "at_random": at_random}


async def answer_cells(send: Send) -> None:
    print(json.dumps({"ready": True}), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        outcome = await play(send, Cell(**json.loads(line)))
        print(json.dumps(asdict(outcome)), flush=True)


async def main(side: str, *arguments: str) -> None:
    # Only those of Ray Serve import Ray.
    sides = SIDES if side in SIDES else importlib.import_module("benchmarks.queue_serve").SIDES
    async with sides[side](*arguments) as send:
        await answer_cells(send)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
