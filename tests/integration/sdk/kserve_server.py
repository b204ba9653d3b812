"""A real KServe v2 server on grpcio that behaves as its standard input says; run as a process of its own.

Prints ``address 127.0.0.1:<port>`` when it listens. Each line of standard input is a behaviour in JSON, answered with
``done``: ``{"mode": "ok" | "hang" | "hold" | "error" | "drain", "code": "...", "details": "...", "delay_s": 0.0}``.
What is held is answered once the behaviour is another one. The line ``counts`` is answered with JSON: requests seen,
cancelled, and what runs.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
from tritonclient.grpc import service_pb2 as kserve
from tritonclient.grpc import service_pb2_grpc as rpc


@dataclass
class Behaviour:
    mode: str = "ok"
    code: str = "UNAVAILABLE"
    details: str = ""
    delay_s: float = 0.0
    over: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class Counts:
    infer: int = 0
    cancelled: int = 0
    running: int = 0
    live: int = 0
    seen_ids: list[str] = field(default_factory=list)
    copies: int = 0  # requests that say that they are one
    digest: str = ""  # of the last request
    left_s: float = -1.0  # of the last request's time; -1: it has no deadline


class Service(rpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Answers with its inputs as outputs, and with what it knows of the call as parameters."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.behaviour = Behaviour()
        self.counts = Counts()

    async def ServerLive(self, request: Any, context: Any) -> Any:  # noqa: N802, ARG002
        self.counts.live += 1
        return kserve.ServerLiveResponse(live=True)

    async def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802, ARG002
        tensor = kserve.ModelMetadataResponse.TensorMetadata(name="x", datatype="FP32", shape=[-1, 4])
        return kserve.ModelMetadataResponse(
            name=request.name, versions=["1"], platform="test", inputs=[tensor], outputs=[tensor]
        )

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.counts.infer += 1
        self.counts.running += 1
        self.counts.seen_ids.append(request.id)
        self._note(request, context)
        try:
            return await self._infer(request, context)
        except asyncio.CancelledError:
            self.counts.cancelled += 1
            raise
        finally:
            self.counts.running -= 1

    async def ModelStreamInfer(self, requests: Any, context: Any) -> Any:  # noqa: N802
        async for request in requests:
            self.counts.infer += 1
            yield kserve.ModelStreamInferResponse(infer_response=await self._infer(request, context))

    def _note(self, request: Any, context: Any) -> None:
        self.counts.copies += dict(context.invocation_metadata()).get("mesh-shadow") == "1"
        self.counts.digest = hashlib.sha256(request.SerializeToString(deterministic=True)).hexdigest()
        left = context.time_remaining()
        self.counts.left_s = -1.0 if left is None else left

    async def _infer(self, request: Any, context: Any) -> Any:
        wanted = self.behaviour
        if wanted.mode == "hang":
            await asyncio.Event().wait()
        if wanted.mode == "hold":
            await wanted.over.wait()
        if wanted.mode == "drain":
            await context.abort(grpc.StatusCode.UNAVAILABLE, f"{self.name} is draining and takes no new requests")
        if wanted.mode == "error":
            await context.abort(grpc.StatusCode[wanted.code], wanted.details)
        left = context.time_remaining()
        await asyncio.sleep(wanted.delay_s)
        answer = kserve.ModelInferResponse(model_name=request.model_name, id=request.id)
        for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True):
            answer.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
            answer.raw_output_contents.append(raw)
        metadata = dict(context.invocation_metadata())
        answer.parameters["replica"].string_param = self.name
        answer.parameters["traceparent"].string_param = metadata.get("traceparent", "")
        answer.parameters["left_s"].double_param = -1.0 if left is None else left
        return answer

    def command(self, line: str) -> str:
        if line == "counts":
            return json.dumps(self.counts.__dict__)
        self.behaviour.over.set()
        self.behaviour = Behaviour(**json.loads(line))
        return "done"


async def main(name: str, port: int) -> None:
    service = Service(name)
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    server = grpc.aio.server(options=options)
    rpc.add_GRPCInferenceServiceServicer_to_server(service, server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    print(f"address 127.0.0.1:{port}", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(service.command(line.strip()), flush=True)
    await server.stop(0)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
