"""One proxy at the edge for all applications: whom a request is for, and what of one application is another one's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import pytest
from proxy_harness import Proxy, infer, who
from proxy_registry import Registry
from sdk_harness import Replica
from tritonclient.grpc import service_pb2 as pb

from serving._proto import records_pb2 as records
from serving.local.etcd import EtcdCluster
from tests.support.etcd_server import StartEtcd
from tests.support.waiting import eventually

Replicas = Callable[..., list[Replica]]
StartProxy = Callable[..., Proxy]

SIDES = (("digits", 1), ("other", 0))


@pytest.fixture
def etcd(own_etcd: StartEtcd) -> EtcdCluster:
    """An edge sees everything."""
    return own_etcd()


def edge(etcd: EtcdCluster, start_proxy: StartProxy, **changes: Any) -> Proxy:
    whole = {"etcd": {"endpoints": list(etcd.config().endpoints)}, "edge": True, "namespace": ""}
    return start_proxy(**{**whole, "application": "", "deployment": "", **changes})


def models(*names: str) -> list[records.ModelRecord]:
    return [records.ModelRecord(name=name, versions=["1"]) for name in names]


def known(proxy: Proxy, *names: str) -> None:
    """Waits until the proxy offers these models, by their full names."""

    def offered() -> bool:
        index = proxy.stub.RepositoryIndex(pb.RepositoryIndexRequest(), timeout=60)
        return set(names) <= {model.name for model in index.models if model.state == "READY"}

    eventually(offered, timeout_s=90, what=f"{names} are offered")


def refused(call: Callable[[], Any]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as error:
        call()
    return error.value.code(), error.value.details()


async def test_models_of_many_applications(etcd: EtcdCluster, replicas: Replicas, start_proxy: StartProxy) -> None:
    a, b = replicas("a", "b")
    one, two = Registry(etcd, "one"), Registry(etcd, "two")
    await one.put(a, models=models("digits", "shared"))
    await two.put(b, models=models("words", "shared"))
    proxy = edge(etcd, start_proxy)
    known(proxy, "default/one/digits", "default/one/shared", "default/two/words", "default/two/shared")
    for name, by in (
        ("digits", "a"),
        ("one/digits", "a"),
        ("default/one/digits", "a"),
        ("words", "b"),
        ("default/one/shared", "a"),
        ("default/two/shared", "b"),
        ("two/shared", "b"),
    ):
        answer = proxy.stub.ModelInfer(infer(name), timeout=60)
        assert who(answer) == by, name
        assert answer.model_name == name.rsplit("/", 1)[-1], "the replica is asked by the model's own name"
    code, text = refused(lambda: proxy.stub.ModelInfer(infer("shared"), timeout=60))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "default/one/shared, default/two/shared" in text
    code, text = refused(lambda: proxy.stub.ModelInfer(infer("nothing"), timeout=60))
    assert code is grpc.StatusCode.NOT_FOUND
    assert "default/one/digits" in text
    assert not proxy.stub.ModelReady(pb.ModelReadyRequest(name="nothing"), timeout=60).ready


async def test_metadata_names_the_application(etcd: EtcdCluster, replicas: Replicas, start_proxy: StartProxy) -> None:
    a, b = replicas("a", "b")
    await Registry(etcd, "one").put(a)
    await Registry(etcd, "two").put(b)
    proxy = edge(etcd, start_proxy)
    known(proxy, "default/one/digits", "default/two/digits")
    for application, by in (("default/one", "a"), ("default/two", "b")):
        metadata = [("mesh-application", application)]
        assert who(proxy.stub.ModelInfer(infer("digits"), timeout=60, metadata=metadata)) == by
    code, text = refused(
        lambda: proxy.stub.ModelInfer(infer("digits"), timeout=60, metadata=[("mesh-application", "default/three")])
    )
    assert code is grpc.StatusCode.NOT_FOUND
    assert "default/three" in text
    code, text = refused(lambda: proxy.stub.ServerMetadata(pb.ServerMetadataRequest(), timeout=60))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "mesh-application" in text


async def test_streams(etcd: EtcdCluster, replicas: Replicas, start_proxy: StartProxy) -> None:
    a, b = replicas("a", "b")
    await Registry(etcd, "one").put(a)
    await Registry(etcd, "two").put(b)
    proxy = edge(etcd, start_proxy)
    known(proxy, "default/one/digits", "default/two/digits")
    requests = [infer("default/two/digits", "1"), infer("two/digits", "2"), infer("digits", "3")]
    answers = list(proxy.stub.ModelStreamInfer(iter(requests), timeout=60))
    assert [(who(one.infer_response), one.infer_response.id) for one in answers] == [("b", "1"), ("b", "2"), ("b", "3")]
    assert {one.infer_response.model_name for one in answers} == {"digits"}
    code, _ = refused(lambda: list(proxy.stub.ModelStreamInfer(iter([infer("digits")]), timeout=60)))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert list(proxy.stub.ModelStreamInfer(iter([]), timeout=60)) == []


async def test_applications_come_go_and_split(etcd: EtcdCluster, replicas: Replicas, start_proxy: StartProxy) -> None:
    a, b, c = replicas("a", "b", "c")
    proxy = edge(etcd, start_proxy)
    assert not proxy.stub.ServerReady(pb.ServerReadyRequest(), timeout=60).ready
    one, two = Registry(etcd, "one"), Registry(etcd, "two")
    sides = [records.TrafficSide(name=name, deployment=name, weight=weight) for name, weight in SIDES]
    await one.split(records.TrafficSplit(name="s", sides=sides))
    await one.put(a)
    await one.put(b, deployment="other")
    known(proxy, "default/one/digits")
    assert proxy.stub.ServerReady(pb.ServerReadyRequest(), timeout=60).ready
    eventually(lambda: proxy.metric('mesh_proxy_endpoints{state="ready"}') == 2, timeout_s=60, what="both are known")
    assert {who(proxy.stub.ModelInfer(infer("one/digits"), timeout=60)) for _ in range(20)} == {"a"}
    await two.put(c)
    known(proxy, "default/two/digits")
    assert who(proxy.stub.ModelInfer(infer("two/digits"), timeout=60)) == "c"
    await two.delete(c)

    def alone() -> bool:
        try:
            return who(proxy.stub.ModelInfer(infer("digits"), timeout=60)) == "a"
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.INVALID_ARGUMENT:
                raise
            return False  # both are still known

    eventually(alone, timeout_s=60, what="one is left")


async def test_one_application_that_has_nobody_holds_up_no_other(
    etcd: EtcdCluster, replicas: Replicas, start_proxy: StartProxy
) -> None:
    a, b = replicas("a", "b")
    one, two = Registry(etcd, "one"), Registry(etcd, "two")
    await one.put(a)
    await two.put(b)
    proxy = edge(etcd, start_proxy, policy={"max_queued": 1})
    known(proxy, "default/one/digits", "default/two/digits")
    await one.put(a, state="draining")
    eventually(lambda: proxy.metric('mesh_proxy_endpoints{state="ready"}') == 1, timeout_s=60, what="it drains")
    held = proxy.stub.ModelInfer.future(infer("one/digits"), timeout=100)
    eventually(lambda: proxy.metric("mesh_proxy_waiting") == 1, timeout_s=60, what="a request waits")
    code, _ = refused(lambda: proxy.stub.ModelInfer(infer("one/digits"), timeout=60))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert who(proxy.stub.ModelInfer(infer("two/digits"), timeout=60)) == "b"
    await one.put(a)
    assert who(held.result()) == "a"


async def test_etcd_is_away(etcd: EtcdCluster, replicas: Replicas, start_proxy: StartProxy) -> None:
    (a,) = replicas("a")
    await Registry(etcd, "one").put(a)
    proxy = edge(etcd, start_proxy)
    known(proxy, "default/one/digits")
    etcd.stop()
    assert who(proxy.stub.ModelInfer(infer("one/digits"), timeout=60)) == "a"


@pytest.mark.parametrize(
    ("endpoints", "changes", "said"),
    [
        ((), {"application": "digits"}, "'application' is not for an edge"),
        (("127.0.0.1:1",), {}, "'endpoints' is not for an edge"),
        ((), {"namespace": "a/b"}, "'namespace' must be a name"),
    ],
)
def test_wrong_configurations(
    start_proxy: StartProxy, endpoints: tuple[str, ...], changes: dict[str, Any], said: str
) -> None:
    nowhere = {
        "etcd": {"endpoints": ["127.0.0.1:1"]},
        "edge": True,
        "namespace": "",
        "application": "",
        "deployment": "",
    }
    with pytest.raises(AssertionError, match=said):
        start_proxy(*endpoints, **{**nowhere, **changes})
