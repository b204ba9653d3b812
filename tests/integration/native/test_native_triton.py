"""serving._native: the embedded Triton for Python."""

from __future__ import annotations

import gc
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from serving import errors
from tests.support.waiting import eventually

FIXED = ["bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"]
DTYPES = {f"id_{name}": np.dtype(name) for name in FIXED}
DTYPES |= {"id_fp16": np.dtype("float16"), "id_fp32": np.dtype("float32"), "id_fp64": np.dtype("float64")}
NUMBERS = np.arange(6, dtype=np.float32)


@pytest.mark.parametrize("model", DTYPES)
@pytest.mark.parametrize("count", [0, 1, 7, 100, 100_000])
def test_fixed_size_dtypes(model: str, count: int, triton: Any) -> None:
    sent = (np.arange(count) % 120).astype(DTYPES[model])
    received = triton.infer(model, {"INPUT0": sent})["OUTPUT0"]
    assert received.dtype == sent.dtype
    assert np.array_equal(received, sent)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def _any_array(triton: Any, data: st.DataObject) -> None:
    model = data.draw(st.sampled_from(sorted(DTYPES)))
    dtype = DTYPES[model].newbyteorder(data.draw(st.sampled_from(["<", ">"])))
    sent = data.draw(hnp.arrays(dtype, st.integers(0, 200)))
    sent = sent[:: data.draw(st.sampled_from([1, 2, -1]))]
    received = triton.infer(model, {"INPUT0": sent})["OUTPUT0"]
    assert received.tobytes() == sent.astype(DTYPES[model]).tobytes()


def test_any_array(triton: Any) -> None:
    _any_array(triton)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(values=st.lists(st.one_of(st.binary(max_size=40), st.text(max_size=20)), max_size=30))
def _any_strings(triton: Any, values: list[bytes | str]) -> None:
    sent = np.empty(len(values), dtype=object)
    sent[:] = values
    received = triton.infer("id_string", {"INPUT0": sent})["OUTPUT0"]
    assert received.dtype == object
    assert received.tolist() == [value.encode() if isinstance(value, str) else value for value in values]


def test_any_strings(triton: Any) -> None:
    _any_strings(triton)
    assert triton.infer("id_string", {"INPUT0": np.array([b"a", b"bc"])})["OUTPUT0"].tolist() == [b"a", b"bc"]
    assert triton.infer("id_string", {"INPUT0": np.array(["ü"])})["OUTPUT0"].tolist() == ["ü".encode()]


def test_bfloat16_is_its_bits(triton: Any) -> None:
    bits = np.arange(500, dtype=np.uint16)
    received = triton.infer("id_bf16", {"INPUT0": bits})["OUTPUT0"]
    assert received.dtype == np.uint16
    assert np.array_equal(received, bits)


def test_outputs_own_their_memory(triton: Any) -> None:
    """Small ones lie in the call, large ones on the heap; both must stay after everything else is gone."""
    kept = []
    for number in range(200):
        count = 5 + number * 20
        kept.append((number, triton.infer("id_int32", {"INPUT0": np.full(count, number, np.int32)})["OUTPUT0"]))
    gc.collect()
    assert all((array == number).all() for number, array in kept)
    array = kept[0][1]
    array += 1  # nobody else sees the memory
    assert (array == 1).all()


def test_several_tensors_and_chosen_outputs(triton: Any) -> None:
    inputs = {"A": NUMBERS, "B": np.ones((2, 3), np.int32)}
    both = triton.infer("two", inputs)
    assert both.keys() == {"OA", "OB"}
    assert both["OB"].shape == (2, 3)
    assert triton.infer("two", inputs, outputs=["OA"]).keys() == {"OA"}


def asked(model: str = "id_fp32", value: object = NUMBERS, **options: object) -> dict[str, object]:
    """The arguments of one call of infer."""
    return {"model": model, "inputs": {"INPUT0": value}, **options}


@pytest.mark.parametrize(
    ("kind", "message", "arguments"),
    [
        (errors.NotFound, "nope", asked("nope")),
        (errors.NotFound, "version 9", asked(version="9")),
        (errors.InvalidArgument, "integral", asked(version="x")),
        (errors.InvalidArgument, "INT64", asked(value=np.arange(3))),
        (errors.InvalidArgument, "complex128", asked(value=np.ones(2, complex))),
        (errors.InvalidArgument, "expected 2 inputs", {"model": "two", "inputs": {"A": NUMBERS}}),
        (errors.InvalidArgument, "unexpected inference output", asked(outputs=["X"])),
        (errors.InvalidArgument, "bytes or str", asked("id_string", np.array([1, None], object))),
        (errors.InvalidArgument, "timeout_s", asked(timeout_s=0)),
        (errors.InvalidArgument, "priority", asked(parameters={"priority": "x"})),
        (errors.InvalidArgument, "'p' must be", asked(parameters={"p": []})),
        (errors.NotSupported, "decoupled", asked("decoupled")),
    ],
)
def test_errors(kind: type[errors.MeshError], message: str, arguments: dict[str, Any], triton: Any) -> None:
    with pytest.raises(kind, match=message):
        triton.infer(**arguments)
    assert np.array_equal(triton.infer("id_fp32", {"INPUT0": NUMBERS})["OUTPUT0"], NUMBERS)


def test_a_timeout_leaves_the_inputs_alone(triton: Any, places: dict[str, str]) -> None:
    """The request goes on reading its arrays after the call has given up; they must still be there."""
    gate = Path(places["repository"]) / "gated" / "gate"
    gate.unlink()
    try:
        for _ in range(5):
            with pytest.raises(errors.DeadlineExceeded):
                triton.infer("gated", {"INPUT0": np.ones(100_000, np.float32)}, timeout_s=0.05)
            gc.collect()
    finally:
        gate.touch()
    assert triton.infer("gated", {"INPUT0": NUMBERS}, timeout_s=60)["OUTPUT0"].shape == (6,)


def test_the_gil_is_free_while_waiting(triton: Any) -> None:
    counted = 0
    done = threading.Event()

    def count() -> None:
        nonlocal counted
        while not done.is_set():
            counted += 1
            time.sleep(0)

    counter = threading.Thread(target=count)
    counter.start()
    before = counted
    triton.infer("slow", {"INPUT0": NUMBERS})
    during = counted - before
    done.set()
    counter.join()
    assert during > 10


def test_many_threads(triton: Any) -> None:
    def work(seed: int) -> bool:
        values = np.full(1 + seed * 37 % 500, seed, np.float32)
        return all(np.array_equal(triton.infer("id_fp32", {"INPUT0": values})["OUTPUT0"], values) for _ in range(50))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(16)))


def test_what_it_tells(triton: Any) -> None:
    assert triton.is_ready()
    assert triton.is_ready("rich", "2")
    assert not triton.is_ready("nope")
    assert triton.metadata()["name"] == "triton"
    assert triton.model_metadata("two")["inputs"][1] == {"name": "B", "datatype": "INT32", "shape": [2, -1]}
    assert triton.model_config("rich")["dynamic_batching"]["priority_levels"] == 3
    assert {"name": "two", "version": "1", "state": "READY"} in triton.index()
    triton.infer("fixed", {"INPUT0": np.ones((3, 16), np.float32)})
    eventually(lambda: triton.statistics("fixed")[0]["inference_count"] == 3, timeout_s=60, what="the count of three")
    assert "nv_inference_count" in triton.metrics()
    with pytest.raises(errors.NotFound):
        triton.model_config("nope")


def test_life(native: ModuleType, places: dict[str, str]) -> None:
    with native.TritonServer(**places, models=["id_fp32", "absent"]) as server:
        assert server.load_errors.keys() == {"absent"}
        assert not server.is_ready()
        assert server.is_ready("id_fp32")
    assert not server.is_ready()
    server.stop()
    with pytest.raises(errors.FailedPrecondition, match="stopped"):
        server.infer("id_fp32", {"INPUT0": NUMBERS})


def test_stop_while_others_infer(native: ModuleType, places: dict[str, str]) -> None:
    server = native.TritonServer(**places, models=["id_fp32"])
    outcomes: list[str] = []

    def work() -> None:
        try:
            while True:
                server.infer("id_fp32", {"INPUT0": NUMBERS})
        except (errors.Unavailable, errors.FailedPrecondition, errors.NotFound) as error:
            outcomes.append(type(error).__name__)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    server.stop()
    for thread in threads:
        thread.join(60)
    assert len(outcomes) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"repository": "/nowhere/models"}, "/nowhere/models"),
        ({"backend_directory": "/nowhere/backends"}, "/nowhere/backends"),
        ({"library": "/nowhere/libtritonserver.so"}, "/nowhere/libtritonserver.so"),
    ],
)
def test_a_start_that_cannot_work(
    change: dict[str, str], message: str, native: ModuleType, places: dict[str, str]
) -> None:
    with pytest.raises(errors.MeshError, match=message):
        native.TritonServer(**{**places, **change})
