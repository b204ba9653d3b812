"""`tritonclient.http` and curl against the ingress and against `tritonserver`."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.http as client
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc
from tritonclient.utils import InferenceServerException, shared_memory

from tests.integration.ingress.conftest import StartIngress
from tests.integration.ingress.kserve_servers import Ingress, Oracle, gauge, in_flight, metric
from tests.integration.ingress.rest_cases import post, tensor
from tests.integration.ingress.test_kserve_calls import DATATYPES, values
from tests.integration.ingress.test_rest_contract import ask
from tests.support.certificates import Authority
from tests.support.waiting import eventually

SLOW = post("/v2/models/slow/infer", {"inputs": [tensor()]})
GATED = post("/v2/models/gated/infer", {"inputs": [tensor()]})


def input_of(sent: Any, datatype: str, *, binary: bool = True) -> client.InferInput:
    made = client.InferInput("INPUT0", list(sent.shape), datatype)
    made.set_data_from_numpy(sent, binary_data=binary)
    return made


@pytest.fixture(params=["ingress", "oracle"])
def address(request: pytest.FixtureRequest, ingress: Ingress, oracle: Oracle) -> str:
    return ingress.address if request.param == "ingress" else oracle.http_address


@pytest.mark.parametrize("datatype", DATATYPES)
@pytest.mark.parametrize("count", [0, 1, 1000])
def test_every_datatype_both_ways(datatype: str, count: int, address: str) -> None:
    model = "id_string" if datatype == "BYTES" else f"id_{datatype.lower()}"
    sent = values(datatype, count)
    with client.InferenceServerClient(address) as triton:
        for binary in (True, False):
            if not binary and (datatype == "FP16" or count == 0):
                continue
            if datatype == "BYTES" and not binary:
                sent = np.array([f"é{i}" for i in range(count)], dtype=np.object_)
            output = client.InferRequestedOutput("OUTPUT0", binary_data=binary)
            answer = triton.infer(model, [input_of(sent, datatype, binary=binary)], outputs=[output], request_id="r1")
            assert list(answer.as_numpy("OUTPUT0")) == list(sent)
            assert answer.get_response()["id"] == "r1"


def test_large_tensors(ingress: Ingress) -> None:
    sent = np.random.default_rng(1).random(16 << 20, dtype=np.float32)
    with client.InferenceServerClient(ingress.address, network_timeout=120) as triton:
        received = triton.infer("id_fp32", [input_of(sent, "FP32")]).as_numpy("OUTPUT0")
    assert np.array_equal(received, sent)


def test_everything_else_of_the_client(address: str) -> None:
    with client.InferenceServerClient(address) as triton:
        assert triton.is_server_live()
        assert triton.is_server_ready()
        assert triton.is_model_ready("rich", "2")
        assert not triton.is_model_ready("nope")
        assert triton.get_server_metadata()["name"] == "triton"
        assert triton.get_model_metadata("labels")["inputs"][0]["shape"] == [-1, 4]
        assert triton.get_model_config("rich")["dynamic_batching"]["preferred_batch_size"] == [2, 4]
        assert triton.get_inference_statistics("id_int8")["model_stats"][0]["name"] == "id_int8"
        assert len(triton.get_model_repository_index()) > 15
        assert triton.get_system_shared_memory_status() == []
        assert triton.get_cuda_shared_memory_status() == []
        with pytest.raises(InferenceServerException) as raised:
            triton.infer("nope", [input_of(values("FP32", 2), "FP32")])
        assert "unknown model: 'nope'" in str(raised.value)


def test_classification_and_sequences(address: str) -> None:
    scores = np.array([[0.1, 0.7, 0.2, 0.3]], dtype=np.float32)
    with client.InferenceServerClient(address) as triton:
        asked = client.InferRequestedOutput("OUTPUT0", class_count=2)
        labels = triton.infer("labels", [input_of(scores, "FP32")], outputs=[asked]).as_numpy("OUTPUT0")
        assert labels[0][0] == b"0.700000:1:one"
        for number in range(3):
            answer = triton.infer(
                "seq",
                [input_of(scores, "FP32")],
                sequence_id=4711,
                sequence_start=number == 0,
                sequence_end=number == 2,
                parameters={"note": "x"},
                priority=1,
                timeout=10_000_000,
            )
            assert np.array_equal(answer.as_numpy("OUTPUT0"), scores)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compression(algorithm: str, address: str) -> None:
    sent = np.zeros(100_000, dtype=np.float32)
    with client.InferenceServerClient(address) as triton:
        answer = triton.infer(
            "id_fp32",
            [input_of(sent, "FP32")],
            request_compression_algorithm=algorithm,
            response_compression_algorithm=algorithm,
        )
    assert np.array_equal(answer.as_numpy("OUTPUT0"), sent)


def test_shared_memory_both_ways(address: str) -> None:
    sent = np.arange(1000, dtype=np.float32)
    key = f"/mesh-rest-{time.monotonic_ns()}"
    region = shared_memory.create_shared_memory_region("both", key, 8000)
    try:
        with client.InferenceServerClient(address) as triton:
            triton.register_system_shared_memory("both", key, 8000)
            status = triton.get_system_shared_memory_status()
            assert status == [{"name": "both", "key": key, "offset": 0, "byte_size": 8000}]
            shared_memory.set_shared_memory_region(region, [sent])
            asked, wanted = client.InferInput("INPUT0", [1000], "FP32"), client.InferRequestedOutput("OUTPUT0")
            asked.set_shared_memory("both", 4000)
            wanted.set_shared_memory("both", 4000, offset=4000)
            answer = triton.infer("id_fp32", [asked], outputs=[wanted])
            assert answer.get_output("OUTPUT0") == {"name": "OUTPUT0", "datatype": "FP32", "shape": [1000]}
            received = shared_memory.get_contents_as_numpy(region, np.float32, [1000], offset=4000)
            assert np.array_equal(received, sent)
            with pytest.raises(InferenceServerException, match="already in manager"):
                triton.register_system_shared_memory("both", key, 8000)
            triton.unregister_system_shared_memory("both")
            assert triton.get_system_shared_memory_status() == []
    finally:
        shared_memory.destroy_shared_memory_region(region)


def curl(*arguments: str) -> str:
    done = subprocess.run(["curl", "-sS", *arguments], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


def test_curl(ingress: Ingress, tmp_path: Path) -> None:
    base = f"http://{ingress.address}/v2"
    assert curl("-o", "/dev/null", "-w", "%{http_code}", f"{base}/health/ready") == "200"
    body = json.dumps({"inputs": [tensor()]})
    assert json.loads(curl("-d", body, f"{base}/models/id_fp32/infer"))["outputs"][0]["data"] == [1.0, 2.5]
    large = tmp_path / "large.json"
    data = [0.5] * 300_000
    large.write_text(json.dumps({"inputs": [tensor(shape=[len(data)], data=data)]}))
    for flags in (["--compressed"], ["-H", "Transfer-Encoding: chunked"], ["--http1.0"]):
        answer = json.loads(curl(*flags, "--data-binary", f"@{large}", f"{base}/models/id_fp32/infer"))
        assert answer["outputs"][0]["data"] == data
    events = curl("-N", "-d", '{"INPUT0": [1, 2, 3]}', f"{base}/models/repeat/generate_stream")
    assert [json.loads(line[6:])["OUTPUT0"] for line in events.split("\n\n") if line] == [1.0, 2.0, 3.0]
    assert "nv_inference_count" in curl(f"http://{ingress.address}/metrics")


def test_tls_of_both_protocols_on_one_port(start_ingress: StartIngress, tmp_path: Path) -> None:
    tls = Authority.make(tmp_path / "authority").issue("server")
    assert tls.ca_file
    server = start_ingress("--model=id_fp32", f"--cert={tls.cert_file}", f"--key={tls.key_file}")
    body = json.dumps({"inputs": [tensor()]})
    url = f"https://{server.address}/v2/models/id_fp32/infer"
    for flags in (["--http1.1"], ["--no-alpn"]):
        answer = json.loads(curl(*flags, "--cacert", tls.ca_file, "-d", body, url))
        assert answer["outputs"][0]["data"] == [1.0, 2.5]
    context = ssl.create_default_context(cafile=tls.ca_file)
    with client.InferenceServerClient(server.address, ssl=True, ssl_context_factory=lambda: context) as triton:
        sent = np.arange(1 << 20, dtype=np.float32)
        assert np.array_equal(triton.infer("id_fp32", [input_of(sent, "FP32")]).as_numpy("OUTPUT0"), sent)
    credentials = grpc.ssl_channel_credentials(Path(tls.ca_file).read_bytes())
    with grpc.secure_channel(server.address, credentials) as channel:
        assert service_pb2_grpc.GRPCInferenceServiceStub(channel).ServerReady(pb.ServerReadyRequest(), timeout=60).ready


async def test_pipelining_through_tls(start_ingress: StartIngress, tmp_path: Path) -> None:
    """What TLS has decrypted already does not wake the server's loop: it must be found anyhow."""
    tls = Authority.make(tmp_path / "authority").issue("server")
    server = start_ingress("--model=slow", f"--cert={tls.cert_file}", f"--key={tls.key_file}")
    context = ssl.create_default_context(cafile=tls.ca_file)
    host, port = server.address.rsplit(":", 1)
    body = SLOW.body or b""
    slow = b"POST %s HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (SLOW.path.encode(), len(body), body)
    many = b"GET /v2/health/live HTTP/1.1\r\n\r\n" * 20_000
    last = b"GET /v2/health/live HTTP/1.1\r\nConnection: close\r\n\r\n"
    # One loop sends and receives: a TLS connection of Python's must not be used by two threads at once.
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context, server_hostname=host)
    writer.write(slow + many + last)
    received = await asyncio.wait_for(reader.read(), 120)
    writer.close()
    assert received.count(b"HTTP/1.1 200 OK\r\n") == 20_002


def test_a_client_that_goes_away_leaves_the_queue(ingress: Ingress, gate: Path) -> None:
    """Of ten queued requests nine are given up: the work of the nine is not done."""
    count = 'nv_inference_count{model="gated"'
    before = metric(ingress, count)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(ask, ingress.address, GATED)
        eventually(lambda: in_flight(ingress) == 1, timeout_s=90, what="the first request")
        url, body = f"http://{ingress.address}{GATED.path}", (GATED.body or b"").decode()
        tired = [subprocess.Popen(["curl", "-s", "-d", body, url]) for _ in range(9)]
        eventually(lambda: in_flight(ingress) == 10, timeout_s=90, what="all ten")
        for each in tired:
            each.kill()
            each.wait()
        eventually(lambda: gauge(ingress, "mesh_rpc_calls") == 1, timeout_s=90, what="the server to know of it")
        gate.touch()
        assert first.result().status == 200
    eventually(lambda: in_flight(ingress) == 0, timeout_s=90, what="no request to be left")
    assert metric(ingress, count) - before < 5


def test_an_unread_stream_is_cancelled_with_its_client(ingress: Ingress) -> None:
    """The model stops when the client has gone."""
    body = json.dumps({"INPUT0": [1.0] * 3_000_000})  # minutes of answers
    url = f"http://{ingress.address}/v2/models/repeat/generate_stream"
    with subprocess.Popen(["curl", "-sN", "-d", "@-", url], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as curl:
        assert curl.stdin is not None
        assert curl.stdout is not None
        curl.stdin.write(body.encode())
        curl.stdin.close()
        assert curl.stdout.readline().startswith(b"data: ")
        curl.kill()
    eventually(lambda: in_flight(ingress) == 0, timeout_s=90, what="no request to be left")


def test_draining(start_ingress: StartIngress, gate: Path) -> None:
    server = start_ingress("--model=gated", "--model=id_fp32")
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(ask, server.address, GATED)
        eventually(lambda: in_flight(server) == 1, timeout_s=90, what="the request")
        server.drain()
        refused = ask(server.address, post("/v2/models/id_fp32/infer", {"inputs": [tensor()]}))
        assert refused.status == 503
        assert "draining" in json.loads(refused.body)["error"]
        assert refused.headers["connection"] == "close"
        gate.touch()
        assert running.result().status == 200


def test_stop_under_traffic_breaks_no_answer(start_ingress: StartIngress) -> None:
    """Every request is answered whole, refused as draining, or never taken."""
    server = start_ingress("--model=id_fp32", "--event-loops=2")
    stop = threading.Event()
    outcomes: list[str] = []

    def one_client() -> None:
        sent = np.arange(1000, dtype=np.float32)
        while not stop.is_set():
            outcomes.append(outcome_of(server.address, sent))

    clients = [threading.Thread(target=one_client) for _ in range(8)]
    for each in clients:
        each.start()
    eventually(lambda: outcomes.count("good") > 200, timeout_s=90, what="traffic")
    server.process.terminate()
    assert server.process.wait(60) == 0
    stop.set()
    for each in clients:
        each.join(60)
    assert set(outcomes) <= {"good", "draining", "refused"}, set(outcomes)


def outcome_of(address: str, sent: Any) -> str:
    try:
        with client.InferenceServerClient(address) as triton:
            answer = triton.infer("id_fp32", [input_of(sent, "FP32")]).as_numpy("OUTPUT0")
        return "good" if np.array_equal(answer, sent) else "wrong"
    except ConnectionRefusedError:
        return "refused"
    except InferenceServerException as error:
        return "draining" if "draining" in str(error) else str(error)
    except ConnectionResetError:  # taken by the kernel only, when the listening socket was closed
        return "refused"
    except Exception as error:  # noqa: BLE001 - the test judges it
        return repr(error)


def test_many_clients(ingress: Ingress) -> None:
    def one_client(seed: int) -> int:
        random = np.random.default_rng(seed)
        good = 0
        with client.InferenceServerClient(ingress.address) as triton:
            for number in range(60):
                sent = random.random(int(random.integers(1, 3000)), dtype=np.float32)
                answer = triton.infer("id_fp32", [input_of(sent, "FP32")], request_id=f"{seed}-{number}")
                same = np.array_equal(answer.as_numpy("OUTPUT0"), sent)
                good += same and answer.get_response()["id"] == f"{seed}-{number}"
        return good

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(one_client, range(8))) == 480


def test_metrics(ingress: Ingress) -> None:
    calls: Callable[[str, str], str] = 'mesh_ingress_calls_total{{code="{}",method="{}"}}'.format
    counted = [calls("OK", "ModelInfer"), calls("NOT_FOUND", "ModelInfer"), calls("OK", "GenerateStream")]
    counted += [calls("OK", "ServerReady")]
    before = [metric(ingress, name) for name in counted]
    good = post("/v2/models/id_fp32/infer", {"inputs": [tensor()]})
    stream = post("/v2/models/id_fp32/generate_stream", {"INPUT0": [1]})
    for request in (good, post("/v2/models/nope/infer", {}), stream):
        ask(ingress.address, request)
    curl(f"http://{ingress.address}/v2/health/ready")
    wanted = [count + 1 for count in before]
    eventually(lambda: [metric(ingress, name) for name in counted] == wanted, timeout_s=90, what="one call of each")
