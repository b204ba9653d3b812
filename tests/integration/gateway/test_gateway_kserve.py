"""KServe v2 over HTTP at a real gateway: Triton's own client, to a real C++ server with Triton."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from serving._proto import records_pb2 as pb
from serving.local.etcd import EtcdCluster
from serving.store import EtcdClient, keys
from serving.store.keys import AppKey
from serving.store.records import encode
from tests.integration.ingress.kserve_models import write_repository
from tests.integration.ingress.kserve_servers import Ingress, compose_backends
from tests.support.llm_serving import GatewayProcess, HttpProxyProcess, http_proxy_config
from tests.support.waiting import aeventually, eventually

APP = AppKey("default", "numbers")
FULL = "default/numbers/id_fp32"


@pytest.fixture(scope="module")
def replica(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ingress]:
    folder: Path = tmp_path_factory.mktemp("server")
    backends, repository = compose_backends(folder / "backends"), write_repository(folder / "models")
    with Ingress(repository, backends, folder / "log", "--model=id_fp32") as running:
        yield running


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, etcd: EtcdCluster, replica: Ingress) -> Iterator[GatewayProcess]:
    async def register() -> None:
        client = EtcdClient(etcd.config())
        await put(client, "numbers", replica.address)
        await put(client, "python", replica.address, rest=False)
        await client.close()

    asyncio.run(register())
    running = GatewayProcess(tmp_path_factory.mktemp("gateway"), etcd.config(), leave_s=0.0, hold_s=1.0)
    yield running
    running.end()


async def put(client: EtcdClient, application: str, address: str, *, rest: bool = True) -> None:
    record = pb.Endpoint(
        id="m-r1-0",
        address=address,
        protocol="kserve-grpc",
        rest=rest,
        role="direct",
        namespace="default",
        application=application,
        deployment="m",
        models=[pb.ModelRecord(name="id_fp32" if rest else "snake", versions=["1"])],
        state="ready",
    )
    await client.put(keys.endpoint(AppKey("default", application), "direct", "m", record.id), encode(record))


@pytest.fixture
def client(gateway: GatewayProcess) -> Iterator[triton.InferenceServerClient]:
    made = triton.InferenceServerClient(gateway.url.removeprefix("http://"), network_timeout=60.0)
    yield made
    made.close()


@pytest.mark.parametrize("name", ["id_fp32", "numbers/id_fp32", FULL])
@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_infer(client: triton.InferenceServerClient, name: str, binary: bool) -> None:
    check_infer(client, name, binary)


def check_infer(client: triton.InferenceServerClient, name: str, binary: bool) -> None:
    sent = np.arange(4, dtype=np.float32)
    tensor = triton.InferInput("INPUT0", list(sent.shape), "FP32")
    tensor.set_data_from_numpy(sent, binary_data=binary)
    outputs = [triton.InferRequestedOutput("OUTPUT0", binary_data=binary)]
    answer = client.infer(name, [tensor], outputs=outputs)
    assert np.array_equal(answer.as_numpy("OUTPUT0"), sent)
    assert answer.get_response()["model_name"] == "id_fp32"


def test_what_is_said_of_models(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(FULL, "1")
    assert client.get_model_metadata(FULL)["name"] == "id_fp32"
    assert client.get_model_config("numbers/id_fp32")["name"] == "id_fp32"
    assert client.get_inference_statistics("id_fp32", "1")["model_stats"][0]["name"] == "id_fp32"
    assert client.get_server_metadata()["name"] == "mesh-gateway"
    assert {"name": FULL, "state": "READY"} in client.get_model_repository_index()


def test_what_is_not_there(client: triton.InferenceServerClient, gateway: GatewayProcess) -> None:
    for call in (
        client.get_system_shared_memory_status,
        lambda: client.load_model("id_fp32"),
        client.get_inference_statistics,
        client.get_log_settings,
    ):
        with pytest.raises(InferenceServerException, match="ask a replica itself"):
            call()
    with pytest.raises(InferenceServerException, match="the model `nothing` does not exist"):
        client.get_model_metadata("nothing")
    with pytest.raises(InferenceServerException, match="answer gRPC only"):
        client.get_model_metadata("snake")
    assert httpx.get(f"{gateway.url}/v2/models/id_fp32/infer").headers["allow"] == "POST"
    sequence = {"inputs": [], "parameters": {"sequence_id": 7}}
    answer = httpx.post(f"{gateway.url}/v2/models/id_fp32/infer", json=sequence)
    assert (answer.status_code, "sequences" in answer.json()["error"]) == (501, True)
    answer = httpx.post(f"{gateway.url}/v2/models/id_fp32/infer", content=b"{")
    assert answer.headers["x-mesh-model"] == FULL, "the replica's own words"
    assert "error" in answer.json()
    quoted = FULL.replace("/", "%2F")
    assert httpx.get(f"{gateway.url}/v2/models/{quoted}/versions/1").json()["name"] == "id_fp32"


def test_through_the_applications_own_proxy(
    tmp_path: Path, etcd: EtcdCluster, client: triton.InferenceServerClient
) -> None:
    """It says what the gateway says, of its own models only."""
    proxy = HttpProxyProcess(tmp_path, http_proxy_config(etcd=etcd.config(), application="numbers"))
    try:
        address = proxy.wait_state("ready", registered=True).address
        with triton.InferenceServerClient(address, network_timeout=60.0) as own:
            check_infer(own, "id_fp32", binary=True)
            check_infer(own, FULL, binary=False)
            assert own.get_model_config(FULL) == client.get_model_config(FULL)
            assert own.get_model_repository_index() == [{"name": FULL, "state": "READY"}]
            with pytest.raises(InferenceServerException, match="not supported at the proxy"):
                own.get_log_settings()
    finally:
        proxy.end()


def test_one_that_leaves_says_so_before_it_refuses(tmp_path: Path, etcd: EtcdCluster, gateway: GatewayProcess) -> None:
    assert gateway.url
    leaving = GatewayProcess(tmp_path, etcd.config(), leave_s=3.0)
    try:
        with httpx.Client(base_url=leaving.url, timeout=30) as http:
            assert http.get("/v2/health/ready").status_code == 200
            leaving.terminate()
            eventually(lambda: http.get("/v2/health/ready").status_code == 503, timeout_s=30, what="it says so")
            assert http.get(f"/v2/models/{FULL}").status_code == 200
    finally:
        leaving.end()


async def test_a_route_and_an_application_that_splits(etcd: EtcdCluster, gateway: GatewayProcess) -> None:
    store = EtcdClient(etcd.config())
    route = pb.RouteRecord(name="ident", targets=[pb.RouteTarget(model=FULL, weight=1)], version=1)
    await store.put(keys.route("ident"), encode(route))
    async with httpx.AsyncClient(timeout=60) as client:

        async def routed() -> bool:
            answer = await client.get(f"{gateway.url}/v2/models/ident")
            return answer.status_code == 200 and answer.headers["x-mesh-model"] == FULL

        await aeventually(routed, what="the route leads there")
        sides = [pb.TrafficSide(name="m", deployment="m", weight=1)]
        split = pb.TrafficSplit(name="s", sides=sides)
        record = pb.TrafficRecord(namespace="default", name="numbers", splits=[split], version=1)
        await store.put(keys.traffic(APP), encode(record))
        metric = 'mesh_gateway_split_requests_total{application="default/numbers",side="m",split="s"}'

        async def followed() -> bool:
            assert (await client.get(f"{gateway.url}/v2/models/{FULL}")).status_code == 200
            return metric in (await client.get(f"{gateway.url}/metrics")).text

        await aeventually(followed, what="the split is followed")
        record.splits[0].shadow.CopyFrom(pb.Shadow(deployment="n", percent=1))
        record.version = 2
        await store.put(keys.traffic(APP), encode(record))

        async def refused() -> bool:
            return (await client.get(f"{gateway.url}/v2/models/{FULL}")).status_code == 501

        await aeventually(refused, what="an application that wants copies is refused")
        counted = f'mesh_gateway_requests_total{{model="{FULL}",path="/v2",status="501"}}'
        assert counted in (await client.get(f"{gateway.url}/metrics")).text
        await store.delete(keys.traffic(APP))
    await store.close()
