"""Models with implicit state, in OpenVINO IR: the values of a sequence are kept by Triton, not by the model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from tests.integration.ingress.kserve_models import tensor, write_model

DIRECT = "direct {}"
OLDEST = "oldest { max_candidate_sequences: 8 }"


def _parameter(name: str, kind: ov.Type, *, dims: Sequence[int] = (-1, 1)) -> ov.Node:
    made = ops.parameter(ov.PartialShape(list(dims)), kind, name=name)
    made.output(0).get_tensor().set_names({name})
    return made


def _result(node: ov.Node, name: str) -> ov.Node:
    """An output of its own, so that several may show one tensor."""
    shown = ops.reshape(node, ops.shape_of(node), special_zero=False)
    shown.output(0).get_tensor().set_names({name})
    return ops.result(shown)


def _save(folder: Path, results: Sequence[ov.Node], parameters: Sequence[ov.Node]) -> None:
    model = ov.Model(list(results), list(parameters), "state")
    ov.save_model(model, folder / "1" / "model.xml", compress_to_fp16=False)


def _state(kind: str, initial: str = "", name: str = "SUM") -> str:
    given = f'initial_state: {{ name: "begin" data_type: TYPE_{kind} dims: [1] {initial} }}' if initial else ""
    return f'{{ input_name: "{name}_IN" output_name: "{name}_OUT" data_type: TYPE_{kind} dims: [1] {given} }}'


def _sequences(strategy: str, *states: str, controls: str = "") -> str:
    return (
        f"sequence_batching {{ max_sequence_idle_microseconds: 60000000 {strategy} {controls} "
        f"state [{', '.join(states)}] }}\n"
    )


def _numbers(*outputs: str) -> str:
    return tensor("input", "INPUT0", "INT32", "[1]") + "".join(
        tensor("output", name, "INT32", "[1]") for name in outputs
    )


def write_sum(repository: Path, name: str, strategy: str, initial: str, *, shown: bool = False) -> Path:
    """OUTPUT0 is the sum of the sequence so far; `shown`: clients may ask for the state's next value too."""
    outputs = ("OUTPUT0", "SUM_OUT") if shown else ("OUTPUT0",)
    extra = _sequences(strategy, _state("INT32", initial))
    folder = write_model(repository, name, _numbers(*outputs), batch=4, extra=extra, backend="openvino")
    given, before = _parameter("INPUT0", ov.Type.i32), _parameter("SUM_IN", ov.Type.i32)
    total = ops.add(given, before)
    _save(folder, [_result(total, "OUTPUT0"), _result(total, "SUM_OUT")], [given, before])
    return folder


def write_started_sum(repository: Path, name: str, strategy: str, *, batch: int) -> Path:
    """The same without an initial value: the model is told when a sequence starts."""
    control = 'control_input [{ name: "START" control [{ kind: CONTROL_SEQUENCE_START int32_false_true: [0, 1] }] }]'
    extra = _sequences(strategy, _state("INT32"), controls=control)
    if not batch:  # an instance then has room for one sequence
        extra += "instance_group [{ kind: KIND_CPU count: 4 }]\n"
    folder = write_model(repository, name, _numbers("OUTPUT0"), batch=batch, extra=extra, backend="openvino")
    dims = (-1, 1) if batch else (1,)
    given, start = (_parameter(tensor_name, ov.Type.i32, dims=dims) for tensor_name in ("INPUT0", "START"))
    before = _parameter("SUM_IN", ov.Type.i32, dims=dims)
    one = ops.constant(np.array(1, np.int32))
    total = ops.add(given, ops.multiply(before, ops.subtract(one, start)))
    _save(folder, [_result(total, "OUTPUT0"), _result(total, "SUM_OUT")], [given, start, before])
    return folder


def write_aliased_sum(repository: Path, name: str, strategy: str, *, results: int = 1, shown: bool = False) -> Path:
    """OUTPUT0 and the state's next value are two names of one tensor, which so many results show.

    `shown`: clients may ask for it by both names.
    """
    outputs = ("OUTPUT0", "SUM_OUT") if shown else ("OUTPUT0",)
    extra = _sequences(strategy, _state("INT32", "zero_data: true"))
    folder = write_model(repository, name, _numbers(*outputs), batch=4, extra=extra, backend="openvino")
    given, before = _parameter("INPUT0", ov.Type.i32), _parameter("SUM_IN", ov.Type.i32)
    total = ops.add(given, before)
    total.output(0).get_tensor().set_names({"OUTPUT0", "SUM_OUT"})
    _save(folder, [ops.result(total) for _ in range(results)], [given, before])
    return folder


def write_two_states(repository: Path, name: str, strategy: str) -> Path:
    """OUTPUT0 is the sum so far, LAST what was sent before it: two states of two datatypes."""
    states = (_state("INT32", "zero_data: true"), _state("FP32", "zero_data: true", "LAST"))
    tensors = _numbers("OUTPUT0") + tensor("output", "LAST", "FP32", "[1]")
    folder = write_model(repository, name, tensors, batch=4, extra=_sequences(strategy, *states), backend="openvino")
    given, before = _parameter("INPUT0", ov.Type.i32), _parameter("SUM_IN", ov.Type.i32)
    last = _parameter("LAST_IN", ov.Type.f32)
    total = ops.add(given, before)
    results = [_result(total, "OUTPUT0"), _result(total, "SUM_OUT"), _result(last, "LAST")]
    results.append(_result(ops.convert(given, "f32"), "LAST_OUT"))
    _save(folder, results, [given, before, last])
    return folder


def write_state_repository(repository: Path) -> Path:
    """Every model of the comparison."""
    for kind, strategy in (("direct", DIRECT), ("oldest", OLDEST)):
        write_sum(repository, f"sum_{kind}", strategy, "zero_data: true")
        write_started_sum(repository, f"started_{kind}", strategy, batch=4)
        write_started_sum(repository, f"single_{kind}", strategy, batch=0)
        write_two_states(repository, f"two_{kind}", strategy)
        write_aliased_sum(repository, f"aliased_{kind}", strategy)
        write_aliased_sum(repository, f"twice_{kind}", strategy, results=2)
    write_aliased_sum(repository, "aliased_shown", OLDEST, shown=True)
    write_sum(repository, "sum_shown", DIRECT, "zero_data: true", shown=True)
    from_file = write_sum(repository, "sum_from_file", OLDEST, 'data_file: "hundred"')
    (from_file / "initial_state").mkdir()
    (from_file / "initial_state" / "hundred").write_bytes(np.array([100], np.int32).tobytes())
    return repository
