"""The model repository of the ingress tests."""

from __future__ import annotations

from pathlib import Path

_INTEGERS = [f"{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)]
DATATYPES = ["BOOL", *_INTEGERS, "FP16", "FP32", "FP64", "STRING", "BF16"]

RICH_CONFIG = """
dynamic_batching {
  preferred_batch_size: [2, 4] max_queue_delay_microseconds: 100 priority_levels: 3 default_priority_level: 2
  default_queue_policy { timeout_action: REJECT default_timeout_microseconds: 30000000 allow_timeout_override: true }
  priority_queue_policy { key: 1 value { timeout_action: DELAY max_queue_size: 10 } }
}
version_policy { specific { versions: [1, 2] } }
instance_group [{ kind: KIND_CPU count: 2 }]
optimization { priority: PRIORITY_MAX eager_batching: true input_pinned_memory { enable: false } }
parameters [{ key: "note" value { string_value: "Größe" } }]
metric_tags [{ key: "team" value: "vision" }]
response_cache { enable: false }
model_warmup [{
  name: "zeros" batch_size: 1
  inputs { key: "INPUT0" value { data_type: TYPE_FP32 dims: 4 zero_data: true } }
}]
"""

FAILING_MODEL = """
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        raise ValueError("the model's own words")
"""

# One response per element; a negative one is an error. The sender's final flag comes alone.
REPEATING_MODEL = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            for value in pb_utils.get_input_tensor_by_name(request, "INPUT0").as_numpy():
                if request.is_cancelled():
                    sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError("stopped")))
                    break
                if value < 0:
                    sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError("negative")))
                    continue
                output = pb_utils.Tensor("OUTPUT0", np.array([value], dtype=np.float32))
                sender.send(pb_utils.InferenceResponse([output]))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""


def tensor(kind: str, name: str, datatype: str, dims: str) -> str:
    return f'{kind} {{ name: "{name}" data_type: TYPE_{datatype} dims: {dims} }}\n'


def write_model(
    repository: Path, name: str, tensors: str, *, batch: int = 0, extra: str = "", backend: str = "identity"
) -> Path:
    folder = repository / name
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(f'backend: "{backend}"\nmax_batch_size: {batch}\n{tensors}{extra}')
    return folder


def pair(datatype: str, dims: str) -> str:
    return tensor("input", "INPUT0", datatype, dims) + tensor("output", "OUTPUT0", datatype, dims)


def text_parameter(key: str, value: str) -> str:
    return f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}\n'


def delay(ms: int) -> str:
    return text_parameter("execute_delay_ms", f"{ms}")


def write_repository(repository: Path) -> Path:
    """Every model of the tests."""
    for datatype in DATATYPES:
        write_model(repository, f"id_{datatype.lower()}", pair(datatype, "[-1]"))
    write_model(repository, "fixed", pair("FP32", "[16]"), batch=8, extra="dynamic_batching {}\n")
    write_model(
        repository,
        "two",
        tensor("input", "A", "FP32", "[-1]")
        + tensor("input", "B", "INT32", "[2, -1]")
        + tensor("output", "OA", "FP32", "[-1]")
        + tensor("output", "OB", "INT32", "[2, -1]"),
    )
    rich = write_model(repository, "rich", pair("FP32", "[4]"), batch=4, extra=RICH_CONFIG)
    (rich / "2").mkdir()
    labels = write_model(
        repository,
        "labels",
        tensor("input", "INPUT0", "FP32", "[4]")
        + 'output { name: "OUTPUT0" data_type: TYPE_FP32 dims: [4] label_filename: "labels.txt" }\n',
        batch=4,
    )
    (labels / "labels.txt").write_text("zero\none\ntwo\n")
    sequences = "sequence_batching { max_sequence_idle_microseconds: 5000000 }\n"
    write_model(repository, "seq", pair("FP32", "[4]"), batch=4, extra=sequences)
    write_model(repository, "slow", pair("FP32", "[-1]"), extra=delay(400))
    failing = write_model(repository, "failing", pair("FP32", "[-1]"), backend="python")
    (failing / "1" / "model.py").write_text(FAILING_MODEL)
    gate = repository / "gated" / "gate"
    write_model(repository, "gated", pair("FP32", "[-1]"), extra=text_parameter("execute_gate", str(gate)))
    gate.touch()
    write_model(repository, "refusing", pair("FP32", "[-1]"), extra=text_parameter("execute_error", "not today"))
    decoupled = "model_transaction_policy { decoupled: true }\n"
    write_model(repository, "decoupled", pair("FP32", "[-1]"), extra=decoupled)
    repeat = write_model(repository, "repeat", pair("FP32", "[-1]"), extra=decoupled, backend="python")
    (repeat / "1" / "model.py").write_text(REPEATING_MODEL)
    return repository
