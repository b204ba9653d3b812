"""The identity backend: what comes in goes out, for every datatype, with statistics; and how backends find Triton."""

from __future__ import annotations

import concurrent.futures
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from backend_server import BackendServer

NUMPY_TYPES = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}


def config(kinds: list[str], max_batch_size: int = 0, dims: str = "-1", extra: str = "") -> str:
    """INPUT<i> and OUTPUT<i> of the given datatypes."""
    tensors = {
        side: ", ".join(
            f'{{ name: "{side.upper()}{index}" data_type: TYPE_{kind} dims: [ {dims} ] }}'
            for index, kind in enumerate(kinds)
        )
        for side in ("input", "output")
    }
    return (
        f'backend: "identity"\nmax_batch_size: {max_batch_size}\ninput [ {tensors["input"]} ]\n'
        f"output [ {tensors['output']} ]\ninstance_group [ {{ kind: KIND_CPU count: 1 }} ]\n{extra}"
    )


@pytest.mark.parametrize("kind", sorted(NUMPY_TYPES))
def test_numbers(triton_server: BackendServer, kind: str) -> None:
    model = triton_server.load(f"identity_{kind.lower()}", config([kind], dims="-1, -1"), {})
    values = np.arange(12).reshape(3, 4).astype(NUMPY_TYPES[kind])
    answer = triton_server.infer(model, {"INPUT0": values})["OUTPUT0"]
    assert answer.dtype == values.dtype
    np.testing.assert_array_equal(answer, values)


def test_strings_and_no_elements(triton_server: BackendServer) -> None:
    model = triton_server.load("identity_string", config(["STRING", "FP32"]), {})
    texts = np.array([b"", b"\x00\xff", b"x" * 100_000], dtype=object)
    answer = triton_server.infer(model, {"INPUT0": texts, "INPUT1": np.zeros((0,), np.float32)})
    np.testing.assert_array_equal(answer["OUTPUT0"], texts)
    assert answer["OUTPUT1"].shape == (0,)


def test_many_tensors_and_only_what_is_asked_for(triton_server: BackendServer) -> None:
    model = triton_server.load("identity_many", config(["INT32"] * 20), {})
    values = {f"INPUT{index}": np.full(index + 1, index, np.int32) for index in range(20)}
    answer = triton_server.infer(model, values)
    assert len(answer) == 20
    for index in range(20):
        np.testing.assert_array_equal(answer[f"OUTPUT{index}"], values[f"INPUT{index}"])
    assert set(triton_server.infer(model, values, outputs=["OUTPUT7", "OUTPUT3"])) == {"OUTPUT3", "OUTPUT7"}


def test_an_optional_input_that_is_not_sent(triton_server: BackendServer) -> None:
    optional = config(["INT32", "INT32"]).replace('"INPUT1" data_type', '"INPUT1" optional: true data_type')
    model = triton_server.load("identity_optional", optional, {})
    answer = triton_server.infer(model, {"INPUT0": np.ones(3, np.int32)})
    assert set(answer) == {"OUTPUT0"}


def test_batches_wait_once(triton_server: BackendServer) -> None:
    extra = (
        "dynamic_batching { max_queue_delay_microseconds: 500000 preferred_batch_size: [ 8 ] }\n"
        'parameters { key: "execute_delay_ms" value { string_value: "30" } }'
    )
    model = triton_server.load("identity_slow", config(["FP32"], max_batch_size=8, extra=extra), {})
    rows = [np.full((1, 4), number, np.float32) for number in range(16)]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda row: triton_server.infer(model, {"INPUT0": row})["OUTPUT0"], rows))
    for row, answer in zip(rows, answers, strict=True):
        np.testing.assert_array_equal(answer, row)
    statistics = triton_server.statistics(model)
    assert statistics.inference_count == 16
    assert statistics.execution_count < 16
    assert statistics.inference_stats.compute_infer.ns >= 16 * 30_000_000, "each request counts its batch's 30 ms"
    assert sum(batch.batch_size * batch.compute_infer.count for batch in statistics.batch_stats) == 16


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (
            config(["INT32"]).replace('"OUTPUT0" data_type: TYPE_INT32', '"OUTPUT0" data_type: TYPE_INT64'),
            "model 'identity': output 'OUTPUT0' has datatype INT64, its input 'INPUT0' has INT32",
        ),
        (
            config(["INT32", "INT32"]).replace(', { name: "OUTPUT1" data_type: TYPE_INT32 dims: [ -1 ] }', ""),
            "model 'identity': config has 2 inputs and 1 outputs, identity needs as many outputs as inputs",
        ),
        (
            config(["INT32"], extra='parameters { key: "execute_delay_ms" value { string_value: "1s" } }'),
            "model 'identity': parameter 'execute_delay_ms' is '1s', it must be a whole number from 0 to 3600000",
        ),
    ],
)
def test_configs_that_cannot_work(triton_server: BackendServer, wrong: str, reason: str) -> None:
    assert reason in triton_server.refusal("identity", wrong, {})


def test_a_request_that_is_cancelled_while_it_waits(triton_server: BackendServer) -> None:
    extra = 'parameters { key: "execute_delay_ms" value { string_value: "300" } }'
    model = triton_server.load("identity_cancelled", config(["FP32"], extra=extra), {})
    item = triton_grpc.InferInput("INPUT0", [1], "FP32")
    item.set_data_from_numpy(np.ones(1, np.float32))
    answers: list[object] = []
    calls = [
        triton_server.client.async_infer(model, [item], lambda result, error: answers.append(error or result))
        for _ in range(3)
    ]
    calls[2].cancel()
    item.set_data_from_numpy(np.ones(1, np.float32))
    assert triton_server.client.infer(model, [item]).as_numpy("OUTPUT0")[0] == 1
    assert any("CANCELLED" in str(answer) for answer in answers)


def test_backends_need_no_triton_at_link_time(openvino_library: Path, identity_folder: Path) -> None:
    """So that one build serves the wheel's Triton, whose library has a hashed name, and an installed one."""
    for library in (openvino_library, identity_folder / "identity" / "libtriton_identity.so"):
        dynamic = subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True).stdout
        assert "libtritonserver" not in dynamic
        symbols = subprocess.run(["nm", "-D", library], capture_output=True, text=True, check=True).stdout.splitlines()
        assert not [line for line in symbols if " U TRITON" in line]
        exported = [line.split()[-1] for line in symbols if line.split()[-2] in "TBDVWu"]
        assert "TRITONBACKEND_ModelInstanceExecute" in exported
        assert all(name.startswith("TRITONBACKEND_") for name in exported), exported
