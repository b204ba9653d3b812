"""The same REST requests to the ingress and to `tritonserver`: the same codes, headers that matter, and bodies."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.ingress.conftest import StartIngress
from tests.integration.ingress.kserve_servers import Ingress, Oracle
from tests.integration.ingress.rest_cases import BINARY_LENGTH, RestRequest, cases, post

CASES = cases()
# What differs on purpose; docs/design/0005-rest.md has the reasons.
OTHER_BODY = {"POST /v2/cudasharedmemory/register"}


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


def ask(address: str, request: RestRequest) -> Answer:
    connection = http.client.HTTPConnection(address, timeout=60)
    try:
        connection.request(request.method, request.path, request.body, request.headers)
        answer = connection.getresponse()
        return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
    finally:
        connection.close()


@pytest.mark.parametrize("name", CASES)
def test_same_answers(name: str, ingress: Ingress, oracle: Oracle) -> None:
    ours, theirs = ask(ingress.address, CASES[name]), ask(oracle.http_address, CASES[name])
    assert ours.status == theirs.status, (ours, theirs)
    if name not in OTHER_BODY:
        assert ours.body == theirs.body, (ours, theirs)
    assert ours.headers.get(BINARY_LENGTH.lower()) == theirs.headers.get(BINARY_LENGTH.lower())
    assert ours.headers.get("content-encoding") == theirs.headers.get("content-encoding")
    if ours.status == 200 and ours.body:
        assert ours.headers.get("content-type") == theirs.headers.get("content-type")


def test_metadata_announces_what_is_offered(ingress: Ingress, oracle: Oracle) -> None:
    request = RestRequest("GET", "/v2")
    ours, theirs = (json.loads(ask(address, request).body) for address in (ingress.address, oracle.http_address))
    assert (ours["name"], ours["version"]) == (theirs["name"], theirs["version"])
    assert set(ours["extensions"]) < set(theirs["extensions"])
    assert {"binary_tensor_data", "parameters", "sequence", "classification"} <= set(ours["extensions"])


def test_statistics(ingress: Ingress, oracle: Oracle) -> None:
    """The same fields are there; the values are each server's own."""

    def shape(value: object) -> object:
        if isinstance(value, dict):
            return {key: shape(item) for key, item in value.items() if key != "response_stats"}
        return [shape(item) for item in value] if isinstance(value, list) else type(value).__name__

    for path in ("/v2/models/stats", "/v2/models/id_fp64/stats", "/v2/models/id_fp64/versions/1/stats"):
        request = RestRequest("GET", path)
        ours, theirs = (json.loads(ask(address, request).body) for address in (ingress.address, oracle.http_address))
        names = [[(model["name"], model["version"]) for model in each["model_stats"]] for each in (ours, theirs)]
        assert names[0] == names[1]
        assert shape(ours["model_stats"][0].keys()) == shape(theirs["model_stats"][0].keys())


@pytest.mark.parametrize("action", ["load", "unload"])
def test_models_are_not_the_clients_to_change(action: str, ingress: Ingress, oracle: Oracle) -> None:
    request = post(f"/v2/repository/models/id_fp32/{action}", {})
    ours, theirs = ask(ingress.address, request), ask(oracle.http_address, request)
    assert ours.status == theirs.status == 503
    assert json.loads(ours.body)["error"].startswith(json.loads(theirs.body)["error"])


def test_models_can_be_the_clients_to_change(
    repository: Path, backends: Path, tmp_path: Path, start_ingress: StartIngress
) -> None:
    config = {"backend": "identity", "input": [], "output": []}
    for kind, name in (("input", "INPUT0"), ("output", "OUTPUT0")):
        config[kind] = [{"name": name, "data_type": "TYPE_INT32", "dims": [-1]}]
    path = "/v2/repository/models/id_fp32"
    wrong: list[tuple[str, object]] = [("load", {"parameters": {"config": 5}})]
    wrong += [("load", {"parameters": 5}), ("load", b"xx")]
    good: list[tuple[str, object]] = [
        ("unload", {}),
        ("load", b""),
        ("load", {"parameters": {"config": json.dumps(config)}}),
    ]
    ours = start_ingress("--model-control=explicit", "--model=id_fp32", "--model=id_fp64")
    for body in (b"xx", {"parameters": {"unload_dependents": 1}}):  # `tritonserver` unloads without understanding
        assert ask(ours.address, post(f"{path}/unload", body)).status == 500
    flags = ["--model-control-mode=explicit", "--load-model=id_fp32", "--load-model=id_fp64"]
    with Oracle(repository, backends, tmp_path / "oracle", *flags) as theirs:
        for action, body in [*wrong, *good]:
            request = post(f"{path}/{action}", body)
            answers = [ask(ours.address, request), ask(theirs.http_address, request)]
            assert answers[0].status == answers[1].status, (action, body, answers)
            assert (action, body) in wrong or answers[0].status == 200, answers
    described = ask(ours.address, RestRequest("GET", "/v2/models/id_fp32"))
    assert json.loads(described.body)["inputs"][0]["datatype"] == "INT32"


def test_settings(ingress: Ingress, oracle: Oracle) -> None:
    for path in ("/v2/logging", "/v2/trace/setting", "/v2/models/id_fp32/trace/setting"):
        request = RestRequest("GET", path)
        ours, theirs = (json.loads(ask(address, request).body) for address in (ingress.address, oracle.http_address))
        assert list(ours) == list(theirs), path
    bodies: list[tuple[str, object]] = [("/v2/logging", {"log_verbose_level": 0, "log_info": None, "other": 1})]
    bodies += [("/v2/logging", {"log_info": 5}), ("/v2/logging", {"log_file": "x"}), ("/v2/logging", b"xx")]
    bodies += [("/v2/trace/setting", {"trace_rate": "5"}), ("/v2/trace/setting", {"trace_rate": None})]
    bodies += [("/v2/trace/setting", {"trace_rate": 5}), ("/v2/trace/setting", {"trace_level": "OFF"})]
    bodies += [("/v2/trace/setting", {"trace_level": ["OFF"], "trace_count": "x"}), ("/v2/trace/setting", b"xx")]
    bodies += [("/v2/models/nope/trace/setting", {})]
    for path, body in bodies:
        request = post(path, body)
        ours_answer, theirs_answer = ask(ingress.address, request), ask(oracle.http_address, request)
        assert ours_answer.status == theirs_answer.status, (path, body, ours_answer, theirs_answer)
        if ours_answer.status != 200:
            assert ours_answer.body == theirs_answer.body


def test_generate_that_fails_says_so(ingress: Ingress) -> None:
    """`tritonserver` answers these with 200 or 400."""
    for values in ([1, 2], [1, -2], []):
        answer = ask(ingress.address, post("/v2/models/repeat/generate", {"INPUT0": values}))
        assert answer.status == 500
        assert "exactly 1 response" in json.loads(answer.body)["error"]
    failed = ask(ingress.address, post("/v2/models/failing/generate", {"INPUT0": [1]}))
    assert failed.status == 500
    assert "the model's own words (logged as " in json.loads(failed.body)["error"]
    assert ask(ingress.address, post("/v2/models/repeat/generate", {"INPUT0": [-1]})).status == 500


def test_names_may_be_encoded_and_head_is_answered(ingress: Ingress) -> None:
    assert ask(ingress.address, RestRequest("GET", "/v2/models/id%5Ffp32/ready")).status == 200
    head = ask(ingress.address, RestRequest("HEAD", "/v2/models/id_fp32"))
    assert (head.status, head.body) == (200, b"")
    assert int(head.headers["content-length"]) > 100


def test_a_large_text_is_refused(ingress: Ingress) -> None:
    body = b'{"inputs":[{"name":"INPUT0","datatype":"FP32","shape":[17000000],"data":[' + b"1," * 17_000_000 + b"1]}]}"
    answer = ask(ingress.address, post("/v2/models/id_fp32/infer", body))
    assert answer.status == 400
    assert "send tensors as binary data" in json.loads(answer.body)["error"]


def test_deep_nesting_is_read_or_refused(ingress: Ingress) -> None:
    """The stack of `tritonserver` overflows here."""
    deep = b"[" * 1_000_000
    assert ask(ingress.address, post("/v2/models/id_fp32/infer", deep)).status == 500
    closed = (
        b'{"inputs":[{"name":"INPUT0","datatype":"FP32","shape":[1],"data":' + deep + b"1" + b"]" * 1_000_000 + b"}]}"
    )
    answer = ask(ingress.address, post("/v2/models/id_fp32/infer", closed))
    assert (answer.status, json.loads(answer.body)["outputs"][0]["data"]) == (200, [1.0])


@pytest.mark.parametrize("shape", [[2**63 - 1], [2**62, 2], [2**40, 2**40]])
def test_shapes_beyond_all_measure(shape: list[int], ingress: Ingress) -> None:
    """The first one ends `tritonserver`, which makes room for what the shape says."""
    body = {"inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": shape, "data": [1]}]}
    assert ask(ingress.address, post("/v2/models/id_fp32/infer", body)).status in (400, 500)
    assert ask(ingress.address, RestRequest("GET", "/v2/health/live")).status == 200
