"""Random requests to both servers: the same answers."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb

from tests.contract.corpus_infer import EDGES, model_of
from tests.contract.exchange import differences, infer, one, stream
from tests.contract.pairs import Pair
from tests.integration.ingress.kserve_cases import elements

_SIZES = {"BOOL": 1, "INT8": 1, "UINT8": 1, "INT16": 2, "UINT16": 2, "FP16": 2, "BF16": 2, "INT32": 4, "UINT32": 4}
_SIZES |= {"FP32": 4, "INT64": 8, "UINT64": 8, "FP64": 8}
_MODELS = [model_of(datatype) for datatype in EDGES] + ["fixed", "two", "labels", "chain", "optional", "nope"]
_NAMES = st.sampled_from(["INPUT0", "INPUT0", "INPUT0", "A", "B", "OUTPUT0", "", "x"])


@st.composite
def _contents(draw: st.DrawFn, datatype: str, count: int) -> bytes:
    """Mostly as many bytes as the shape wants, sometimes other ones."""
    off = draw(st.sampled_from([0, 0, 0, 0, 0, -1, 1, 4]))
    if datatype == "BYTES":
        return elements(
            *draw(st.lists(st.binary(max_size=9), min_size=max(count + off, 0), max_size=max(count + off, 0)))
        )
    size = max(count * _SIZES.get(datatype, 4) + off, 0)
    return draw(st.binary(min_size=size, max_size=size))


@st.composite
def requests(draw: st.DrawFn) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(
        model_name=draw(st.sampled_from(_MODELS)), id=draw(st.text(max_size=5).filter(lambda t: "\0" not in t))
    )
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 0]))):
        expected = request.model_name.removeprefix("id_").upper().replace("STRING", "BYTES")
        datatype = expected if expected in EDGES else draw(st.sampled_from(["FP32", "FP32", "INT32"]))
        if draw(st.integers(0, 9)) == 0:
            datatype = draw(st.sampled_from([*EDGES, "", "FP8"]))
        shape = draw(st.lists(st.sampled_from([1, 2, 3, 4, 0, 16]), max_size=3).filter(lambda dims: len(dims) != 3))
        count = 1
        for dim in shape:
            count *= dim
        request.inputs.add(name=draw(_NAMES), datatype=datatype, shape=shape)
        request.raw_input_contents.append(draw(_contents(datatype, count)))
    if draw(st.integers(0, 4)) == 0:
        request.outputs.add(name=draw(_NAMES))
    if draw(st.integers(0, 4)) == 0:
        request.parameters[draw(st.sampled_from(["custom", "timeout", "priority"]))].int64_param = draw(
            st.integers(0, 5)
        )
    return request


@settings(max_examples=400, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(request=requests())
def test_random_requests(request: pb.ModelInferRequest, pair: Pair) -> None:
    found = differences(pair, one("random", infer(request), stream(request)))
    assert not found, "\n".join(found)
