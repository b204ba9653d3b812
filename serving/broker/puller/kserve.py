"""Runs KServe v2 requests in the replica's own process, past its server: the same admission, limits and counters."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from tritonclient.grpc import service_pb2

from serving._proto import broker_pb2 as bpb
from serving.broker.puller.run import Job, ResultTooLarge, Returned, failed
from serving.errors import Cancelled, Code, DeadlineExceeded, MeshError, Unavailable
from serving.python_deployment.failure import at_edge
from serving.python_deployment.inference import Inference
from serving.timeouts import wait_for

_METHOD: Final = "Pull"  # in the counters, beside the methods of the service


class KServeRunner:
    """A `Runner` on the loop that serves."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    async def run(self, job: Job) -> bpb.Result | Returned:
        instruments = self._inference.instruments
        started = time.perf_counter()
        code = Code.CANCELLED
        answers = _Answers(job)
        try:
            await wait_for(self._answer(job, answers), job.left_s)
            code = Code.OK
            return answers.result(streams=self._inference.model.streams)
        except asyncio.TimeoutError:
            code = Code.DEADLINE_EXCEEDED
            return failed(DeadlineExceeded("the item's deadline passed while it ran"), begun=True)
        except Exception as error:  # noqa: BLE001 - the edge: it becomes an outcome
            failure = self._judged(at_edge(error, _METHOD))
            code = failure.code
            return failed(failure, begun=answers.begun)
        finally:
            instruments.count(_METHOD, code, time.perf_counter() - started)

    async def _answer(self, job: Job, answers: _Answers) -> None:
        inference = self._inference
        data = job.request.infer
        with inference.admit() as place:
            inference.instruments.request_bytes.inc(len(data))
            request = inference.read(data, tuple(job.request.metadata.items()), job.left_s)
            answers.begun = True
            if inference.model.streams:
                await inference.stream(place, request, answers.add_streamed)
            else:
                await answers.add(await inference.answer(place, request))
            inference.instruments.response_bytes.inc(answers.size)

    def _judged(self, error: MeshError) -> MeshError:
        """A run that a replica which leaves has ended was not wrong."""
        if isinstance(error, Cancelled) and self._inference.draining.is_set():
            return Unavailable("the replica left before the request was done")
        return error


class _Answers:
    """What a run has answered up to now."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._all: list[bytes] = []
        self.size = 0
        self.begun = False

    async def add(self, data: bytes) -> None:
        """Raises `ResultTooLarge`."""
        self.size += len(data)
        if self.size > self._job.max_result_bytes:
            raise ResultTooLarge(self._job.max_result_bytes)
        self._all.append(data)
        if self._job.emit is not None:
            self._job.emit(data)

    async def add_streamed(self, data: bytes) -> None:
        """A `ModelStreamInferResponse`, whose `infer_response` is the answer."""
        message = service_pb2.ModelStreamInferResponse.FromString(data)
        await self.add(bytes(message.infer_response.SerializeToString()))

    def result(self, *, streams: bool) -> bpb.Result:
        if streams:
            return bpb.Result(infers=bpb.InferAnswers(responses=self._all))
        return bpb.Result(infer=self._all[0])
