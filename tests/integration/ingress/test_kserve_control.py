"""Loading and unloading on request: what the ingress promises beyond what `tritonserver` does (see tests/contract)."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2 as pb

from tests.integration.ingress.conftest import StartIngress
from tests.integration.ingress.kserve_cases import infer_request
from tests.integration.ingress.kserve_models import pair, write_model
from tests.integration.ingress.kserve_servers import Ingress, Oracle, metric
from tests.support.waiting import eventually

# Loaded when the file beside it is there.
HELD_MODEL = """
import pathlib
import time


class TritonPythonModel:
    def initialize(self, args):
        gate = pathlib.Path(args["model_repository"]) / "gate"
        while not gate.exists():
            time.sleep(0.01)

    def execute(self, requests):
        return []
"""
WAITING = 16  # as many calls may wait
CALLS = 'mesh_ingress_calls_total{code="%s",method="RepositoryModelLoad"}'


def load(server: Ingress, model: str, **texts: str) -> Any:
    """The call's future."""
    request = pb.RepositoryModelLoadRequest(model_name=model)
    for key, text in texts.items():
        request.parameters[key].string_param = text
    return server.stub.RepositoryModelLoad.future(request, timeout=150)


def ready(server: Ingress, model: str) -> bool:
    return bool(server.stub.ModelReady(pb.ModelReadyRequest(name=model), timeout=60).ready)


def code(call: Any) -> str:
    return str(call.code().name)


class Held:
    """A server whose one loading thread is busy with a model until `open`."""

    def __init__(self, server: Ingress, gate: Path) -> None:
        self.server = server
        self._gate = gate
        self.first = load(server, "held")
        eventually(lambda: self.state() == "LOADING", timeout_s=90, what="the load to begin")

    def state(self) -> str:
        index = self.server.stub.RepositoryIndex(pb.RepositoryIndexRequest(), timeout=60)
        return next(model.state for model in index.models if model.name == "held")

    def wait_for_waiting(self, count: int) -> None:
        name = "mesh_ingress_repository_calls_waiting"
        eventually(lambda: metric(self.server, name) == count, timeout_s=90, what=f"{count} calls to wait")

    def open(self) -> None:
        self._gate.touch()


@pytest.fixture
def held(tmp_path: Path, start_ingress: StartIngress) -> Iterator[Held]:
    repository = tmp_path / "models"
    for name in ("a", "b", "c"):
        write_model(repository, name, pair("FP32", "[-1]"))
    folder = write_model(repository, "held", pair("FP32", "[-1]"), backend="python")
    (folder / "1" / "model.py").write_text(HELD_MODEL)
    server = start_ingress("--model=a", "--model-control=explicit", repository=repository)
    holding = Held(server, folder / "gate")
    yield holding
    holding.open()


def test_refused_where_the_deployment_does_not_allow_it(ingress: Ingress, oracle: Oracle) -> None:
    for method, message in (
        ("RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="id_fp32")),
        ("RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name="id_fp32")),
    ):
        errors = []
        for server in (ingress, oracle):
            with pytest.raises(grpc.RpcError) as raised:
                getattr(server.stub, method)(message, timeout=60)
            errors.append(raised.value)
        assert errors[0].code() == errors[1].code() == grpc.StatusCode.UNAVAILABLE
        assert str(errors[0].details()).startswith(str(errors[1].details()))
        assert "`model_control: explicit`" in str(errors[0].details())
    assert ready(ingress, "id_fp32")
    extensions = ingress.stub.ServerMetadata(pb.ServerMetadataRequest(), timeout=60).extensions
    assert not any(name.startswith("model_repository") for name in extensions)


def test_requests_go_on_while_a_model_loads(held: Held) -> None:
    for _ in range(20):
        assert held.server.stub.ModelInfer(infer_request("a"), timeout=60).model_name == "a"
    assert held.state() == "LOADING"
    held.open()
    held.first.result()
    assert ready(held.server, "held")
    extensions = held.server.stub.ServerMetadata(pb.ServerMetadataRequest(), timeout=60).extensions
    assert {"model_repository", "model_repository(unload_dependents)"} <= set(extensions)


def test_calls_wait_for_their_turn_up_to_a_limit(held: Held) -> None:
    waiting = [load(held.server, "b") for _ in range(WAITING)]
    above = load(held.server, "c")
    # Which one of them comes too late is the network's choice.
    refused = next(call for call in _ended([*waiting, above]))
    assert code(refused) == "RESOURCE_EXHAUSTED"
    assert "wait" in refused.details()
    held.open()
    assert [code(call) for call in [*waiting, above] if call is not refused] == ["OK"] * WAITING


def _ended(calls: list[Any]) -> list[Any]:
    return eventually(lambda: [call for call in calls if call.done()], timeout_s=90, what="a call to be refused")


def test_a_client_that_goes_away_takes_its_waiting_call_along(held: Held) -> None:
    waiting = load(held.server, "b")
    other = load(held.server, "c")
    held.wait_for_waiting(2)
    held.first.cancel()
    waiting.cancel()
    held.wait_for_waiting(1)
    eventually(lambda: metric(held.server, CALLS % "CANCELLED") == 1, timeout_s=90, what="the call to be counted")
    held.open()
    other.result()
    assert ready(held.server, "held"), "a load that has begun goes on"
    assert not ready(held.server, "b")


def test_draining_refuses_what_waits(held: Held) -> None:
    waiting = load(held.server, "b")
    held.wait_for_waiting(1)
    held.server.drain()
    assert code(waiting) == "UNAVAILABLE"
    assert code(load(held.server, "c")) == "UNAVAILABLE"
    held.open()
    assert code(held.first) == "OK"


def test_a_failing_load_leaves_what_was_loaded(start_ingress: StartIngress) -> None:
    server = start_ingress("--model=id_fp32", "--model-control=explicit")
    config = json.dumps({"backend": "nope"})
    failed = load(server, "id_fp32", config=config)
    assert code(failed) != "OK"
    assert server.stub.ModelInfer(infer_request(), timeout=60).model_name == "id_fp32"
    assert server.stub.ServerReady(pb.ServerReadyRequest(), timeout=60).ready


def test_a_model_that_was_unloaded_is_not_missed(start_ingress: StartIngress) -> None:
    server = start_ingress("--model=id_fp32", "--model=absent", "--model-control=explicit")
    assert not server.stub.ServerReady(pb.ServerReadyRequest(), timeout=60).ready
    server.stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="id_fp32"), timeout=60)
    eventually(lambda: not ready(server, "id_fp32"), timeout_s=90, what="the model to be gone")
    assert not server.stub.ServerReady(pb.ServerReadyRequest(), timeout=60).ready, (
        "the other one was wanted, and is not there"
    )


@pytest.mark.parametrize("path", ["../outside", "1/../../outside", "/outside", "1/../../../../../../tmp/outside"])
def test_files_of_a_load_stay_in_their_folder(path: str, start_ingress: StartIngress) -> None:
    server = start_ingress("--model=id_fp32", "--model-control=explicit")
    request = pb.RepositoryModelLoadRequest(model_name="id_fp32")
    request.parameters["config"].string_param = '{"backend": "identity"}'
    request.parameters[f"file:{path}"].bytes_param = b"x"
    outside = Path(tempfile.gettempdir()) / "outside"
    assert not outside.exists()
    call = server.stub.RepositoryModelLoad.future(request, timeout=150)
    assert code(call) in ("INTERNAL", "INVALID_ARGUMENT")
    assert not outside.exists()
    assert not Path("/outside").exists()
    assert server.stub.ModelInfer(infer_request(), timeout=60).model_name == "id_fp32"
