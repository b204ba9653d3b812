"""From loading to the end of a Python replica: what goes wrong, other configurations, health, drain."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
import tritonclient.grpc.aio as triton
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from serving._proto import records_pb2 as pb
from serving.errors import FailedPrecondition
from serving.python_deployment import Handle
from serving.store.records import decode
from tests.integration.python_deployment.asking import ask, floats, inputs, until, waits_are
from tests.integration.python_deployment.conftest import Serve, Served
from tests.support.certificates import Authority
from tests.support.waiting import eventually

Open = Callable[[Served], triton.InferenceServerClient]

# Takes no more than a small window of what it has not asked for.
SLOW_READER = [("grpc.max_receive_message_length", -1), ("grpc.http2.bdp_probe", 0)]


@pytest.mark.parametrize(
    ("entry", "args", "reason"),
    [
        ("Broken", {}, "constructing tests.integration.python_deployment.classes:Broken failed: RuntimeError: no weig"),
        ("NoInfer", {}, "has no method `infer(self, request)`"),
        ("Scale", {"facto": 1}, "unexpected keyword argument 'facto'"),
        ("Missing", {}, "has no Missing"),
        ("no.such.module:It", {}, "importing no.such.module failed: ModuleNotFoundError"),
    ],
)
def test_what_cannot_start_says_why(serve: Serve, entry: str, args: dict[str, object], reason: str) -> None:
    served = serve(entry, wait="failed", **args)
    assert reason in served.report.reason


def test_a_config_needs_somebody_to_take_it(serve: Serve) -> None:
    served = serve("Anything", config={"a": 1}, wait="failed")
    assert "no method `reconfigure(config)`" in served.report.reason


def update(revision: int, config: str, **more: object) -> pb.ReplicaUpdate:
    return pb.ReplicaUpdate(id="it-r1-0", generation=1, revision=revision, config=config, **more)  # type: ignore[arg-type]


async def test_a_new_config_is_taken_while_it_serves(serve: Serve, client: Open) -> None:
    served = serve("Scale", config={"offset": 1})
    asked = client(served)
    assert (await asked.infer("it", inputs(x=floats(1)))).as_numpy("scaled").tolist() == [3]
    assert served.replica.update(update(2, '{"offset": 5}')) == ""
    await until(lambda: served.report.revision == 2)
    assert (await asked.infer("it", inputs(x=floats(1)))).as_numpy("scaled").tolist() == [7]
    served.replica.update(update(3, '{"offset": -1}'))
    await until(lambda: served.report.failed_updates > 0)
    report = served.report
    assert (report.revision, report.failed_revision, report.updating_to, report.state) == (2, 3, 0, "ready")
    assert report.failed_reason == "reconfigure failed: ValueError: a negative offset"
    assert (await asked.infer("it", inputs(x=floats(1)))).as_numpy("scaled").tolist() == [7]
    assert "is for replica it-r1-0 of generation 1" not in served.replica.update(update(4, ""))
    other = pb.ReplicaUpdate(id="it-r1-1", generation=1, revision=5)
    assert served.replica.update(other).startswith("the update is for replica it-r1-1")


async def test_failing_health_is_reported(serve: Serve, client: Open) -> None:
    served = serve("Scale", config={"sick": "after"})
    asked = client(served)
    await asked.infer("it", inputs(x=floats(1, 2, 3)))
    report = await asyncio.to_thread(served.wait_state, "unhealthy")
    assert report.reason == "health() keeps failing: health() answered False"
    assert not await asked.is_server_ready()
    served.replica.update(update(2, "{}"))
    await asyncio.to_thread(served.wait_state, "ready")
    assert await asked.is_server_ready()


async def test_a_drain_finishes_what_runs_and_refuses_the_rest(serve: Serve, client: Open) -> None:
    served = serve("Waits")
    asked = client(served)
    running = asyncio.ensure_future(ask(asked))
    await until(lambda: waits_are(asked, [1, 0]))
    served.replica.drain(20)
    with pytest.raises(InferenceServerException, match="this replica is draining and takes no new requests") as caught:
        await until(lambda: waits_are(asked, [0, 0]))
    assert caught.value.status() == "StatusCode.UNAVAILABLE"
    assert served.report.state == "draining"
    assert not running.done()
    served.replica.drain(0.2)
    with pytest.raises(InferenceServerException, match="left before the request was done") as cut_off:
        await running
    assert cut_off.value.status() == "StatusCode.UNAVAILABLE"
    await asyncio.to_thread(served.wait_state, "drained")
    assert served.replica.update(update(2, "")) == "the replica is drained and takes no update"


async def test_a_drain_ends_when_the_last_answer_is_out(serve: Serve, client: Open) -> None:
    served = serve("Waits")
    asked = client(served)
    running = [asyncio.ensure_future(ask(asked, "block", parameters={"s": "1"})) for _ in range(3)]
    await until(lambda: served.report.in_flight == 3)
    served.replica.drain(30)
    await asyncio.gather(*running)
    await asyncio.to_thread(served.wait_state, "drained")


async def test_a_drain_waits_for_a_client_that_reads_slowly(serve: Serve) -> None:
    served = serve("Large")
    async with grpc.aio.insecure_channel(served.address, options=SLOW_READER) as channel:
        call = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer", None, None)()
        message = service_pb2.ModelInferRequest(model_name="it")
        message.parameters["mib"].int64_param = 16
        for _ in range(4):
            await call.write(message.SerializeToString())
        await call.read()  # the others wait behind it until they are read
        await until(lambda: served.report.load.requests == 4 and served.report.in_flight == 0)
        served.replica.drain(30)
        await asyncio.sleep(2.5)  # longer than what is left to answers when the time is over
        assert served.report.state == "draining"
        for _ in range(3):
            assert len(await call.read()) > 16 << 20
        assert await asyncio.wait_for(call.code(), 120) is grpc.StatusCode.UNAVAILABLE
    await asyncio.to_thread(served.wait_state, "drained")


async def test_a_second_drain_cuts_a_slow_client_off(serve: Serve) -> None:
    served = serve("Large")
    async with grpc.aio.insecure_channel(served.address, options=SLOW_READER) as channel:
        call = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer", None, None)()
        message = service_pb2.ModelInferRequest(model_name="it")
        message.parameters["mib"].int64_param = 16
        for _ in range(4):
            await call.write(message.SerializeToString())
        await call.read()
        await until(lambda: served.report.load.requests == 4 and served.report.in_flight == 0)
        served.replica.drain(30)
        await until(lambda: served.report.state == "draining")
        await asyncio.sleep(1)
        served.replica.drain(0)
        await asyncio.to_thread(served.wait_state, "drained")


def test_a_restarted_process_begins_with_the_newest_config(serve: Serve, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    served = serve("StartsLater", wait="loading", gate=str(gate))
    served.replica.update(update(2, '{"offset": 1}'))
    gate.touch()
    served.wait_state("ready")
    assert decode(pb.ReplicaReport, served.replica.report("no").encode()).refused == "no"
    eventually(lambda: served.report.revision == 2, timeout_s=60, what="the new revision")


async def test_with_tls_only_clients_with_a_certificate_are_served(serve: Serve, tmp_path: Path) -> None:
    authority = Authority.make(tmp_path / "ca")
    served = serve("Scale", tls=authority.issue("replica"))
    mine = authority.issue("client")
    async with triton.InferenceServerClient(
        served.address,
        ssl=True,
        root_certificates=mine.ca_file,
        private_key=mine.key_file,
        certificate_chain=mine.cert_file,
    ) as asked:
        assert (await asked.infer("it", inputs(x=floats(1)))).as_numpy("scaled").tolist() == [2]
    async with triton.InferenceServerClient(served.address, ssl=True, root_certificates=mine.ca_file) as stranger:
        with pytest.raises(InferenceServerException) as caught:
            await stranger.infer("it", inputs(x=floats(1)), client_timeout=10)
        assert caught.value.status() == "StatusCode.UNAVAILABLE"


async def test_a_handle_does_not_block_the_loop(serve: Serve, client: Open) -> None:
    asked = client(serve("BlocksByHandle"))
    with pytest.raises(InferenceServerException, match=r"Handle.infer_blocking would block the event loop") as caught:
        await ask(asked)
    assert caught.value.status() == "StatusCode.FAILED_PRECONDITION"


def test_a_handle_belongs_into_a_deployment() -> None:
    with pytest.raises(FailedPrecondition, match="can only be made in the constructor or the methods of a deployment"):
        Handle("other")
