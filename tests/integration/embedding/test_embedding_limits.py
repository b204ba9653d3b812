"""Clients that go away, a replica that is full, fails or drains: over an embedder that computes when it is let."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc.aio
import httpx
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from serving.python_deployment.server import GrpcServer
from tests.support.embedding_server import EmbeddingServer
from tests.support.held_embedder import BAD, HeldEmbedder
from tests.support.waiting import eventually


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as made:
        yield made


def ask(server: EmbeddingServer, given: Any, *, batch: bool = False) -> httpx.Response:
    headers = {"x-mesh-class": "batch"} if batch else {}
    body = {"model": "held", "input": given}
    return httpx.post(f"{server.base_url}/embeddings", json=body, headers=headers, timeout=60)


@contextmanager
def running(
    server: EmbeddingServer, pool: ThreadPoolExecutor, given: Any = "first"
) -> Iterator[Future[httpx.Response]]:
    """One request whose computation is held for the block."""
    asked = pool.submit(ask, server, given)
    assert server.embedder.began.wait(30)
    try:
        yield asked
    finally:
        server.embedder.may_go.set()
    assert asked.result().status_code == 200


def opened(server: EmbeddingServer, given: Any) -> socket.socket:
    """A connection on which it was asked for."""
    body = json.dumps({"model": "held", "input": given}).encode()
    made = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    made.sendall(b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    return made


def test_who_goes_away_before_its_batch_is_not_computed(pool: ThreadPoolExecutor) -> None:
    with EmbeddingServer(HeldEmbedder()) as server:
        with running(server, pool):
            leaver = opened(server, ["gone", "away"])
            eventually(lambda: server.waiting_tokens == 8, timeout_s=30, what="it waits")
            stayer = pool.submit(ask, server, "stays")
            eventually(lambda: server.waiting_tokens == 13, timeout_s=30, what="the other waits")
            leaver.close()
            eventually(lambda: server.waiting_tokens == 5, timeout_s=30, what="it has left the queue")
        assert stayer.result().status_code == 200
        assert [len(call) for call in server.embedder.calls] == [1, 1]
        eventually(lambda: server.in_flight == 0, timeout_s=30, what="all places are given back")
        assert server.registry.get_sample_value("mesh_embedding_requests_cancelled_total") == 1


def test_too_many_requests_are_refused(pool: ThreadPoolExecutor) -> None:
    with EmbeddingServer(HeldEmbedder(), max_requests=2) as server:
        with running(server, pool):
            other = pool.submit(ask, server, "other")
            eventually(lambda: server.in_flight == 2, timeout_s=30, what="two run or wait")
            refused = ask(server, "third")
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
            error = refused.json()["error"]
            assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
            assert "2 requests run or wait (max_requests)" in error["message"]
        assert other.result().status_code == 200
        assert ask(server, "again").status_code == 200


def test_too_many_tokens_are_refused(pool: ThreadPoolExecutor) -> None:
    with EmbeddingServer(HeldEmbedder(), max_waiting_tokens=10) as server:
        with running(server, pool):
            other = pool.submit(ask, server, "eight" + "xyz")
            eventually(lambda: server.waiting_tokens == 8, timeout_s=30, what="eight tokens wait")
            refused = ask(server, "more")
            assert refused.status_code == 429
            assert (
                "8 tokens of texts wait, with 4 more above 10 (max_waiting_tokens)"
                in refused.json()["error"]["message"]
            )
            small = pool.submit(ask, server, "ab")
            eventually(lambda: server.waiting_tokens == 10, timeout_s=30, what="what fits is let in")
        assert [other.result().status_code, small.result().status_code] == [200, 200]


def test_what_is_of_a_batch_is_no_load(pool: ThreadPoolExecutor) -> None:
    """It takes what others leave, and asks for no further replica."""
    with EmbeddingServer(HeldEmbedder()) as server:
        instruments = server.service.inference.instruments
        with running(server, pool):
            batch = pool.submit(ask, server, "batch", batch=True)
            eventually(lambda: server.in_flight == 2, timeout_s=30, what="both are there")
            assert instruments.ongoing == 1
        assert batch.result().status_code == 200
        eventually(lambda: server.in_flight == 0, timeout_s=30, what="both are answered")
        assert instruments.ongoing == 0
        assert instruments.statistics.load().requests == 1
        calls = server.registry.get_sample_value("mesh_ingress_calls_total", {"method": "embeddings", "code": "OK"})
        assert calls == 2
        timed = server.registry.get_sample_value("mesh_ingress_call_seconds_count", {"method": "embeddings"})
        assert timed == 1


def test_an_embedder_that_keeps_failing_is_told() -> None:
    with EmbeddingServer(HeldEmbedder(held=False)) as server:
        for _ in range(3):
            assert httpx.get(f"{server.root}/health").status_code == 200
            failed = ask(server, [BAD])
            assert failed.status_code == 500
            assert "internal error, logged as" in failed.json()["error"]["message"]
        unwell = httpx.get(f"{server.root}/health")
        assert (unwell.status_code, unwell.json()["error"]["code"]) == (503, "unavailable")
        assert ask(server, "fine").status_code == 200
        assert httpx.get(f"{server.root}/health").status_code == 200


def test_a_draining_replica_finishes_what_it_has_let_in(pool: ThreadPoolExecutor) -> None:
    with EmbeddingServer(HeldEmbedder()) as server:
        with running(server, pool) as asked:

            async def drain() -> None:
                server.service.inference.draining.set()

            server.call(drain())
            refused = ask(server, "late")
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            assert "draining" in refused.json()["error"]["message"]
            assert httpx.get(f"{server.root}/health").status_code == 503
            assert not asked.done()
        server.call(server.service.inference.wait_idle())
        assert server.in_flight == 0


def test_many_who_come_and_go_leave_nothing(pool: ThreadPoolExecutor) -> None:
    with EmbeddingServer(HeldEmbedder(held=False), max_inputs=4) as server:

        def come_and_go(number: int) -> int:
            if number % 3 == 0:
                opened(server, ["some", "more", "texts"]).close()
                return 200
            return ask(server, ["a" * (number % 8 + 1)] * 5).status_code

        assert set(pool.map(come_and_go, range(60))) == {200}
        eventually(lambda: server.in_flight == 0, timeout_s=30, what="all places are given back")
        assert server.waiting_tokens == 0


def message(text: str) -> bytes:
    """A `ModelInferRequest`."""
    request = service_pb2.ModelInferRequest(model_name="held")
    tensor = request.inputs.add(name="text", datatype="BYTES", shape=[1])
    tensor.contents.bytes_contents.append(text.encode())
    return bytes(request.SerializeToString())


async def test_both_protocols_share_the_places_and_the_queue() -> None:
    """A gRPC call that is taken back leaves the queue; one more than there are places is refused."""
    with EmbeddingServer(HeldEmbedder(), max_requests=3) as server:

        async def eventually_here(look: Callable[[], bool], what: str) -> None:
            await asyncio.to_thread(eventually, look, timeout_s=30, what=what)

        async def start() -> tuple[GrpcServer, int]:
            grpc_server = GrpcServer(server.service.inference)
            return grpc_server, await grpc_server.start("127.0.0.1", 0, None)

        first = asyncio.create_task(asyncio.to_thread(ask, server, "first"))
        await eventually_here(server.embedder.began.is_set, "the first one is computed")
        grpc_server, port = await asyncio.to_thread(lambda: server.call(start()))
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            gone, stays = (infer(message(text), timeout=60) for text in ("gone", "stays"))
            await eventually_here(lambda: server.waiting_tokens == 9, "both wait")
            with pytest.raises(grpc.aio.AioRpcError, match=r"3 requests run or wait \(max_requests\)") as refused:
                await infer(message("more"), timeout=60)
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert (await asyncio.to_thread(ask, server, "more")).status_code == 429
            gone.cancel()
            await eventually_here(lambda: server.waiting_tokens == 5, "it has left the queue")
            server.embedder.may_go.set()
            answer = service_pb2.ModelInferResponse.FromString(await stays)
            assert np.frombuffer(answer.raw_output_contents[0], dtype="<f4")[0] == 5
        assert (await first).status_code == 200
        assert [len(call) for call in server.embedder.calls] == [1, 1]
        await asyncio.to_thread(lambda: server.call(grpc_server.stop(1.0)))
        await eventually_here(lambda: server.in_flight == 0, "all places are given back")
