"""Deployments with `dispatch: pull` at real gRPC proxies, of the application and at the edge: unchanged clients."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from tests.integration.proxy.proxy_harness import Proxy, proxy_config
from tests.integration.queued_http.conftest import PULLED as APP
from tests.integration.queued_http.conftest import World
from tests.support.broker_serving import WORKER, go, told
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(900)


def request(number: int, do: str = "") -> service_pb2.ModelInferRequest:
    made = service_pb2.ModelInferRequest(model_name=WORKER, raw_input_contents=[np.array([number]).tobytes()])
    made.inputs.add(name="n", datatype="INT64", shape=[1])
    made.parameters["do"].string_param = do
    return made


def doubled(answer: service_pb2.ModelInferResponse) -> int:
    index = [output.name for output in answer.outputs].index("doubled")
    return int(np.frombuffer(answer.raw_output_contents[index], np.int64)[0])


@pytest.fixture(scope="module")
def proxies(pulled: World) -> Iterator[dict[str, Proxy]]:
    """The application's `own` one, and one at the `edge`."""
    etcd = {"endpoints": list(pulled.etcd.config().endpoints)}
    edge = {"edge": True, "namespace": "", "application": "", "deployment": ""}
    with (
        Proxy(pulled.folder / "own", proxy_config(etcd=etcd, application=APP, id="grpc-r1-0")) as own,
        Proxy(pulled.folder / "edge", proxy_config(etcd=etcd, **edge)) as at_edge,
    ):
        own.metadata, at_edge.metadata = (), (("mesh-application", f"default/{APP}"),)
        for made in (own, at_edge):
            eventually(partial(knows_the_broker, made), timeout_s=60, what="the proxy knows the broker")
        yield {"own": own, "edge": at_edge}


@pytest.fixture(params=["own", "edge"])
def proxy(proxies: dict[str, Proxy], request: pytest.FixtureRequest) -> Proxy:
    return proxies[request.param]


def knows_the_broker(proxy: Proxy) -> bool:
    before = proxy.metric("mesh_proxy_pulled_total")
    try:
        asked(proxy, 1)
    except grpc.RpcError:
        return False
    return proxy.metric("mesh_proxy_pulled_total") > before


def asked(proxy: Proxy, number: int, do: str = "", timeout: float = 120.0) -> service_pb2.ModelInferResponse:
    return proxy.stub.ModelInfer(request(number, do), timeout=timeout, metadata=proxy.metadata)


def later(proxy: Proxy, number: int, do: str = "wait") -> Any:
    return proxy.stub.ModelInfer.future(request(number, do), timeout=120, metadata=proxy.metadata)


def noted(world: World, *lines: str) -> None:
    eventually(lambda: set(lines) <= set(told(world.folder / APP)), timeout_s=60, what=" and ".join(lines))


def begun(world: World, number: int, times: int = 1) -> None:
    eventually(lambda: told(world.folder / APP).count(f"began {number}") == times, timeout_s=60, what="it has begun")


def refused(call: Callable[[], Any]) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as error:
        call()
    return error.value


def number_of(proxy: Proxy, number: int) -> int:
    """Another one for each of the proxies: what replicas note stays."""
    return number + (1000 if proxy.metadata else 0)


def test_tritonclient_is_answered_through_the_broker(proxy: Proxy) -> None:
    before = proxy.metric("mesh_proxy_pulled_total")
    with triton.InferenceServerClient(proxy.address) as client:
        given = triton.InferInput("n", [1], "INT64")
        given.set_data_from_numpy(np.array([21]))
        answer = client.infer(WORKER, [given], headers=dict(proxy.metadata), request_id="a")
        assert (answer.as_numpy("doubled").tolist(), answer.get_response().id) == ([42], "a")
        with pytest.raises(InferenceServerException, match="not this one"):
            client.infer(WORKER, [given], headers=dict(proxy.metadata), parameters={"do": "refuse"})
    assert proxy.metric("mesh_proxy_pulled_total") == before + 2


def test_what_a_broker_does_not_carry_is_refused(proxy: Proxy) -> None:
    sequence = request(1)
    sequence.parameters["sequence_id"].int64_param = 7
    error = refused(lambda: proxy.stub.ModelInfer(sequence, timeout=60, metadata=proxy.metadata))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "dispatch: pull" in error.details()
    stream = proxy.stub.ModelStreamInfer(iter([request(1)]), timeout=60, metadata=proxy.metadata)
    error = refused(lambda: next(stream))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "dispatch: pull" in error.details()


def test_whoever_goes_away_takes_the_request_along(pulled: World, proxy: Proxy) -> None:
    number = number_of(proxy, 2001)
    asking = later(proxy, number)
    noted(pulled, f"began {number}")
    asking.cancel()
    noted(pulled, f"stopped {number}")
    late = refused(lambda: asked(proxy, number + 1, "wait", timeout=5.0))
    assert late.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    noted(pulled, f"began {number + 1}", f"stopped {number + 1}")


def test_a_replica_that_dies_is_replaced_by_another(pulled: World, proxy: Proxy) -> None:
    number = number_of(proxy, 2101)
    first = pulled.running(APP, "worker-r1-")
    asking = later(proxy, number)
    begun(pulled, number)
    first.kill()
    pulled.worker(APP, name=pulled.next_name("worker"))
    begun(pulled, number, 2)
    go(pulled.folder / APP)
    assert doubled(asking.result()) == 2 * number


def test_a_full_queue_is_told_with_when_to_come_back(pulled: World, proxy: Proxy) -> None:
    asking = [later(proxy, number_of(proxy, 2200) + one) for one in range(30)]
    full = threading.Event()
    for one in asking:
        one.add_done_callback(lambda done: full.set() if done.code() is grpc.StatusCode.RESOURCE_EXHAUSTED else None)
    assert full.wait(60)
    go(pulled.folder / APP)
    codes = [one.code() for one in asking]
    assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
    refusal = asking[codes.index(grpc.StatusCode.RESOURCE_EXHAUSTED)]
    assert int(dict(refusal.trailing_metadata())["retry-after-ms"]) > 0


def test_a_deployment_without_a_replica_is_asked_by_its_name(pulled: World, proxies: dict[str, Proxy]) -> None:
    proxy = proxies["edge"]
    pulled.broker("zero", pulled=[WORKER])
    metadata = (("mesh-application", "default/zero"),)

    def there() -> bool:
        error = refused(lambda: proxy.stub.ModelInfer(request(1), timeout=1, metadata=metadata))
        return error.code() is grpc.StatusCode.DEADLINE_EXCEEDED

    eventually(there, timeout_s=60, what="the request waits at the broker")
    asking = proxy.stub.ModelInfer.future(request(5), timeout=120, metadata=metadata)
    pulled.worker("zero")
    assert doubled(asking.result()) == 10
    url = f"{pulled.gateway.url}/v2/models/zero/{WORKER}/infer"
    tensors = {"inputs": [{"name": "n", "datatype": "INT64", "shape": [1], "data": [6]}]}
    assert httpx.post(url, json=tensors, timeout=60).status_code == 200


def test_a_broker_that_dies_has_the_request_on_its_disk(pulled: World, proxy: Proxy) -> None:
    number = number_of(proxy, 2301)
    asking = later(proxy, number)
    begun(pulled, number)
    pulled.running(APP, "queue-r1-").kill()
    pulled.pulling_broker()
    go(pulled.folder / APP)
    assert doubled(asking.result()) == 2 * number
    assert told(pulled.folder / APP).count(f"ended {number}") == 1
