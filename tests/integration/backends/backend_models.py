"""Small models made on the spot: ONNX and OpenVINO IR, of any datatype and shape."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino as ov
from numpy.typing import NDArray
from onnx import TensorProto, helper
from openvino import opset13 as ops

DIGITS = Path(__file__).resolve().parents[3] / "examples" / "digits"
DIGITS_CONFIG = (DIGITS / "models" / "digits" / "config.pbtxt").read_text().replace('"digits"', '"{name}"', 1)
DIGITS_MODEL = DIGITS / "models" / "digits" / "1" / "model.onnx"

Dims = Sequence[int | str]


def onnx_model(
    nodes: Sequence[tuple[str, Sequence[str], Sequence[str], dict[str, Any]]],
    inputs: dict[str, tuple[int, Dims]],
    outputs: dict[str, tuple[int, Dims]],
) -> bytes:
    """An ONNX model of (operator, inputs, outputs, attributes); tensors are (ONNX datatype, dims)."""
    graph = helper.make_graph(
        [helper.make_node(kind, list(ins), list(outs), **attributes) for kind, ins, outs, attributes in nodes],
        "test",
        [helper.make_tensor_value_info(name, kind, list(dims)) for name, (kind, dims) in inputs.items()],
        [helper.make_tensor_value_info(name, kind, list(dims)) for name, (kind, dims) in outputs.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def adder(dims: Dims = ("batch", 4), kind: int = TensorProto.FLOAT, *, swapped: bool = False) -> bytes:
    """SUM = LEFT + RIGHT and DIFFERENCE = LEFT - RIGHT; `swapped`: the other way round."""
    plus, minus = ("Sub", "Add") if swapped else ("Add", "Sub")
    return onnx_model(
        [(plus, ["LEFT", "RIGHT"], ["SUM"], {}), (minus, ["LEFT", "RIGHT"], ["DIFFERENCE"], {})],
        {"LEFT": (kind, dims), "RIGHT": (kind, dims)},
        {"SUM": (kind, dims), "DIFFERENCE": (kind, dims)},
    )


def adder_config(extra: str = "", dims: str = "4", max_batch_size: int = 8) -> str:
    tensors = {
        side: ", ".join(f'{{ name: "{name}" data_type: TYPE_FP32 dims: [ {dims} ] }}' for name in names)
        for side, names in (("input", ("LEFT", "RIGHT")), ("output", ("SUM", "DIFFERENCE")))
    }
    return (
        f'backend: "openvino"\nmax_batch_size: {max_batch_size}\n'
        f"input [ {tensors['input']} ]\noutput [ {tensors['output']} ]\n{extra}\n"
    )


def ir_files(model: ov.Model, folder: Path) -> dict[str, bytes | Path]:
    """The model as OpenVINO IR in version 1."""
    ov.save_model(model, folder / "model.xml", compress_to_fp16=False)
    return {"1/model.xml": folder / "model.xml", "1/model.bin": folder / "model.bin"}


def passthrough_ir(element: str, folder: Path) -> dict[str, bytes | Path]:
    """INPUT of any datatype and shape [?, ?], given back as OUTPUT: numbers twice side by side, strings once."""
    parameter = ops.parameter(ov.PartialShape([-1, -1]), getattr(ov.Type, element), name="INPUT")
    if element == "string":  # no operator in between: input and output are one tensor with two names
        parameter.output(0).get_tensor().set_names({"INPUT", "OUTPUT"})
        result = ops.result(parameter)
    else:
        parameter.output(0).get_tensor().set_names({"INPUT"})
        result = ops.result(ops.concat([parameter, parameter], axis=1))
        result.output(0).get_tensor().set_names({"OUTPUT"})
    return ir_files(ov.Model([result], [parameter], "passthrough"), folder)


def counter_ir(folder: Path) -> dict[str, bytes | Path]:
    """A model with a state: TOTAL is the sum of every VALUE since the state was reset."""
    value = ops.parameter(ov.PartialShape([1, 1]), ov.Type.f32, name="VALUE")
    value.output(0).get_tensor().set_names({"VALUE"})
    zero = ops.constant(np.zeros((1, 1), np.float32))
    before = ops.read_value(zero, "total", ov.Type.f32, ov.PartialShape([1, 1]))
    total = ops.add(before, value)
    keep = ops.assign(total, "total")
    result = ops.result(total, name="TOTAL")
    result.output(0).get_tensor().set_names({"TOTAL"})
    return ir_files(ov.Model([result], [keep], [value], "counter"), folder)


def run_outside(model: Path | bytes, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The answer of OpenVINO's own Python API with one thread and full precision."""
    core = ov.Core()
    source = core.read_model(model) if isinstance(model, Path) else core.read_model(model, b"")
    compiled = core.compile_model(source, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1})
    answer = compiled(inputs)
    return {port.get_any_name(): answer[port] for port in compiled.outputs}
