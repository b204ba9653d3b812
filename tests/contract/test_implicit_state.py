"""Sequences whose state Triton keeps, over gRPC and REST, beside `tritonserver` with the same OpenVINO backend."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator

import pytest
from tritonclient.grpc import service_pb2 as pb

from serving.deployment import backend_directory, libraries
from tests.contract.corpus_infer import times_out, with_parameters
from tests.contract.exchange import Case, Outcome, call, differences, infer, one, send, stream
from tests.contract.pairs import Pair, start_pair
from tests.contract.state_models import write_state_repository
from tests.integration.ingress.kserve_cases import infer_request
from tests.integration.ingress.rest_cases import post
from tests.integration.ingress.test_rest_contract import Answer, ask

KINDS = ("sum", "started", "single", "two", "aliased", "twice")
SUMS = [f"{name}_{kind}" for name in KINDS for kind in ("direct", "oldest")]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("state")
    plan = backend_directory.plan(
        libraries.find_triton(),
        openvino_library=libraries.find_openvino_backend(),
        openvino_package=libraries.find_openvino(),
        python_backend=None,
    )
    backends = backend_directory.compose(folder / "node", plan)
    with start_pair(folder, write_state_repository(folder / "models"), backends=backends) as pair:
        yield pair


@pytest.fixture
def states(servers: Pair) -> Iterator[Pair]:
    yield servers
    servers.must_live()


def step(model: str, value: int, number: int | str, *flags: str, rows: int = 1) -> pb.ModelInferRequest:
    """One request of a sequence; flags are `start` and `end`."""
    shape = (1,) if model.startswith("single") else (rows, 1)
    request = infer_request(model, [("INPUT0", "INT32", shape)], (struct.pack("<i", value) * rows,))
    return with_parameters(request, sequence_id=number, **{f"sequence_{flag}": True for flag in flags})


def _sequence(model: str, number: int | str, *values: int) -> list[pb.ModelInferRequest]:
    flags = [("start",), *[()] * (len(values) - 2), ("end",)]
    return [step(model, value, number, *flag) for value, flag in zip(values, flags, strict=True)]


def cases() -> Iterator[Case]:
    for model in [*SUMS, "sum_shown", "sum_from_file", "aliased_shown"]:
        for number in (7, "seven", 2**63 - 1):
            name = f"{model}, {number}"
            yield one(f"{name}, alone", *map(infer, _sequence(model, number, 5, 7, -2)))
            yield one(f"{name}, on a stream", stream(*_sequence(model, number, 1, 2, 3, 4)))
        pairs = zip(_sequence(model, 21, 1, 2, 3), _sequence(model, "b", 10, 20, 30), strict=True)
        yield one(f"{model}, two at a time", *[infer(request) for pair in pairs for request in pair])
        again = [
            step(model, 1, 31, "start"),
            step(model, 2, 31),
            step(model, 3, 31, "start"),
            step(model, 4, 31, "end"),
        ]
        yield one(f"{model}, started again", *map(infer, again))
        yield one(f"{model}, started and ended at once", infer(step(model, 1, 32, "start", "end")))
        yield one(f"{model}, after its end", *map(infer, [*_sequence(model, 33, 1, 2), step(model, 3, 33)]))
        yield one(f"{model}, never started", infer(step(model, 3, 34)))
        yield one(f"{model}, without a number", infer(step(model, 3, 0, "start")))
        yield one(f"{model}, two rows", infer(step(model, 3, 35, "start", "end", rows=2)))
        broken = infer_request(model, [("INPUT0", "INT32", (1, 2))], (b"\0" * 8,))
        wrong = with_parameters(broken, sequence_id=36)
        around = [step(model, 1, 36, "start"), wrong, step(model, 2, 36, "end")]
        yield one(f"{model}, a wrong request between", *map(infer, around))
        yield one(f"{model}, its configuration", call("ModelConfig", pb.ModelConfigRequest(name=model)))
        yield one(f"{model}, its metadata", call("ModelMetadata", pb.ModelMetadataRequest(name=model)))
        statistics = pb.ModelStatisticsRequest(name=model)
        yield one(f"{model}, its statistics", call("ModelStatistics", statistics, view=times_out))


@pytest.mark.parametrize("case", list(cases()), ids=lambda case: case.name)
def test_same(case: Case, states: Pair) -> None:
    found = differences(states, case)
    assert not found, "\n".join(found)


def _sum(outcome: Outcome) -> int:
    assert outcome.code == "OK", outcome
    answer = outcome.answers[0]
    assert isinstance(answer, pb.ModelInferResponse)
    return int(struct.unpack("<i", answer.raw_output_contents[0])[0])


@pytest.mark.parametrize(("model", "begin"), [*((name, 0) for name in SUMS), ("sum_from_file", 100)])
def test_the_state_is_the_sequences_own(model: str, begin: int, states: Pair) -> None:
    """Not only the same as there, but right: each sequence goes on from its own sum."""
    sums: dict[int | str, int] = {}
    numbers: list[int | str] = [101, "hundred and two", 103]
    for value in range(1, 6):
        for factor, number in enumerate(numbers, start=1):
            flags = ("start",) if value == 1 else ("end",) if value == 5 else ()
            sums[number] = sums.get(number, begin) + value * factor
            assert _sum(send(states.ours, infer(step(model, value * factor, number, *flags)))) == sums[number]


def test_other_states_of_a_sequence(states: Pair) -> None:
    seen = []
    for request in _sequence("two_oldest", 110, 4, 5, 6):
        answer = states.ours.stub.ModelInfer(request, timeout=60)
        names = [output.name for output in answer.outputs]
        seen.append(struct.unpack("<f", answer.raw_output_contents[names.index("LAST")])[0])
    assert seen == [0, 4, 5]


def test_one_tensor_under_two_names(states: Pair) -> None:
    """It is an output, the state's next value, and shown under the state's name too."""
    for wanted in (["OUTPUT0"], ["SUM_OUT"], ["SUM_OUT", "OUTPUT0"], []):
        found = []
        for request in _sequence("aliased_shown", 120, 4, 5, 6):
            request.outputs.extend(pb.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in wanted)
            answer = states.ours.stub.ModelInfer(request, timeout=60)
            values = [struct.unpack("<i", content)[0] for content in answer.raw_output_contents]
            found.append(dict(zip([output.name for output in answer.outputs], values, strict=True)))
        assert found == [dict.fromkeys(wanted or ["OUTPUT0", "SUM_OUT"], total) for total in (4, 9, 15)]


def _rest(model: str, value: int, number: int | str, **flags: bool) -> object:
    shape = [1] if model.startswith("single") else [1, 1]
    inputs = [{"name": "INPUT0", "datatype": "INT32", "shape": shape, "data": [value]}]
    parameters = {"sequence_id": number, **{f"sequence_{flag}": given for flag, given in flags.items()}}
    return post(f"/v2/models/{model}/infer", {"inputs": inputs, "parameters": parameters})


@pytest.mark.parametrize("number", [41, "forty-one"])
@pytest.mark.parametrize("model", SUMS)
def test_rest(model: str, number: int | str, states: Pair) -> None:
    def asked(address: str) -> list[Answer]:
        requests = [_rest(model, 5, number, start=True), _rest(model, 6, number), _rest(model, 7, number, end=True)]
        return [ask(address, request) for request in [*requests, _rest(model, 8, number)]]  # type: ignore[arg-type]

    ours, theirs = asked(states.ours.address), asked(states.theirs.http_address)
    assert [(answer.status, answer.body) for answer in ours] == [(answer.status, answer.body) for answer in theirs]
    sums = [json.loads(answer.body)["outputs"][0]["data"][0] for answer in ours[:3]]
    assert sums == [5, 11, 18]
    assert ours[3].status == 400


def test_a_sequence_over_both_protocols(states: Pair) -> None:
    """What one began, the other goes on with: a correlation id is the server's, not the connection's."""
    model = "sum_oldest"
    assert _sum(send(states.ours, infer(step(model, 1, "both", "start")))) == 1
    answer = ask(states.ours.address, _rest(model, 2, "both"))  # type: ignore[arg-type]
    assert json.loads(answer.body)["outputs"][0]["data"] == [3]
    assert _sum(send(states.ours, infer(step(model, 4, "both", "end")))) == 7
