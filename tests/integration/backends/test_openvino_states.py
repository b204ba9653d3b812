"""Configurations of models with implicit state, completed from the file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from backend_models import ir_files
from backend_server import Array, BackendServer, make_inputs
from openvino import opset13 as ops

FLAGS = ({"sequence_start": True}, {}, {"sequence_end": True})


def _parameter(name: str, *dims: int) -> ov.Node:
    made = ops.parameter(ov.PartialShape(list(dims)), ov.Type.f32, name=name)
    made.output(0).get_tensor().set_names({name})
    return made


def _named(node: ov.Node, *names: str) -> ov.Node:
    node.output(0).get_tensor().set_names(set(names))
    return node


def _config(dims: str) -> str:
    return (
        'backend: "openvino"\nsequence_batching { max_sequence_idle_microseconds: 60000000 direct {} state [{ '
        f'input_name: "SUM_IN" output_name: "SUM_OUT" data_type: TYPE_FP32 dims: {dims} '
        'initial_state: { name: "begin" data_type: TYPE_FP32 zero_data: true '
        f"dims: {dims} }} }}] }}\n"
    )


def _answers(server: BackendServer, model: str, *values: Array) -> Iterator[dict[str, Array]]:
    """Of one sequence, whose requests have these values for INPUT."""
    for value, flags in zip(values, FLAGS, strict=True):
        result = server.client.infer(model, make_inputs({"INPUT": value}), sequence_id=5, client_timeout=60, **flags)
        yield {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}


def test_a_state_that_cannot_batch(triton_server: BackendServer, tmp_path: Path) -> None:
    """The tensors of clients could, but the model is one with them."""
    given, before = _parameter("INPUT", -1, 3), _parameter("SUM_IN", 1, 3)
    rows = ops.reduce_sum(given, ops.constant(np.array([0])), keep_dims=True)
    total = _named(ops.add(rows, before), "SUM_OUT")
    shown = _named(ops.add(given, before), "OUTPUT")
    ir = ir_files(ov.Model([ops.result(shown), ops.result(total)], [given, before], "state"), tmp_path)
    model = triton_server.load("fixed_state", _config("[1, 3]"), ir)
    config = triton_server.client.get_model_config(model).config
    assert config.max_batch_size == 0
    assert [(item.name, list(item.dims)) for item in config.input] == [("INPUT", [-1, 3])]
    assert [(item.name, list(item.dims)) for item in config.output] == [("OUTPUT", [-1, 3])]
    values = [np.full((rows, 3), rows, np.float32) for rows in (1, 4, 2)]
    expected = (0, 1, 17)  # the sum of the rows before
    for value, answer, sum_before in zip(values, _answers(triton_server, model, *values), expected, strict=True):
        np.testing.assert_array_equal(answer["OUTPUT"], value + sum_before)


@pytest.mark.parametrize("results", [1, 2])
def test_an_output_that_is_the_state_too(triton_server: BackendServer, tmp_path: Path, results: int) -> None:
    """The file gives one tensor both names, and shows it in so many results."""
    given, before = _parameter("INPUT", -1, 1000), _parameter("SUM_IN", -1, 1000)
    total = _named(ops.add(given, before), "OUTPUT", "SUM_OUT")
    model_of_file = ov.Model([ops.result(total) for _ in range(results)], [given, before], "state")
    model = triton_server.load(f"accumulator_{results}", _config("[1000]"), ir_files(model_of_file, tmp_path))
    config = triton_server.client.get_model_config(model).config
    assert config.max_batch_size == 4
    assert [(item.name, list(item.dims)) for item in config.output] == [("OUTPUT", [1000])]
    values = np.random.default_rng(results).integers(-99, 99, (3, 1, 1000)).astype(np.float32)
    for answer, sums in zip(_answers(triton_server, model, *values), np.cumsum(values, axis=0), strict=True):
        assert list(answer) == ["OUTPUT"]
        np.testing.assert_array_equal(answer["OUTPUT"], sums)


def test_an_output_under_two_names(triton_server: BackendServer, tmp_path: Path) -> None:
    given = _parameter("INPUT", -1, 2)
    doubled = _named(ops.add(given, given), "ONE", "OTHER")
    outputs = ", ".join(f'{{ name: "{name}" data_type: TYPE_FP32 dims: [2] }}' for name in ("ONE", "OTHER"))
    config = f'backend: "openvino"\nmax_batch_size: 4\noutput [ {outputs} ]\n'
    model = triton_server.load("two_names", config, ir_files(ov.Model([doubled], [given], "two"), tmp_path))
    values = np.array([[1, 2], [3, 4]], np.float32)
    for wanted in (["ONE"], ["OTHER"], ["OTHER", "ONE"], []):
        answer = triton_server.infer(model, {"INPUT": values}, wanted)
        assert sorted(answer) == sorted(wanted or ["ONE", "OTHER"])
        for name in answer:
            np.testing.assert_array_equal(answer[name], values * 2)
