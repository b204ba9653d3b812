"""The models of the contract, beside those of tests/integration/ingress."""

from __future__ import annotations

from pathlib import Path

from tests.integration.ingress.kserve_models import delay, pair, tensor, write_model, write_repository

# Adds up what a sequence sends, and shows what Triton told it of the sequence.
ADDING_MODEL = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.sums = {}

    def execute(self, requests):
        def value(request, name):
            return pb_utils.get_input_tensor_by_name(request, name).as_numpy().reshape(-1)[0]

        responses = []
        for request in requests:
            number, start, end = (value(request, name) for name in ("CORRID", "START", "END"))
            total = value(request, "INPUT0") + (0 if start else self.sums.get(number, 0))
            self.sums[number] = total
            if end:
                del self.sums[number]
            flags = np.array([[total, start, end]], dtype=np.int32)
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT0", flags)]))
        return responses
"""

# Calls another model, named by its input, and answers with that model's answer or error.
CALLING_MODEL = """
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            name = pb_utils.get_input_tensor_by_name(request, "MODEL").as_numpy()[0].decode()
            values = pb_utils.get_input_tensor_by_name(request, "INPUT0")
            called = pb_utils.InferenceRequest(model_name=name, requested_output_names=["OUTPUT0"], inputs=[values])
            answer = called.exec()
            if answer.has_error():
                responses.append(pb_utils.InferenceResponse(error=answer.error()))
            else:
                outputs = [pb_utils.get_output_tensor_by_name(answer, "OUTPUT0")]
                responses.append(pb_utils.InferenceResponse(outputs))
        return responses
"""

# Answers with what it is told of the request beside its tensors.
TELLING_MODEL = """
import json

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            about = {
                "parameters": json.loads(request.parameters()),
                "id": request.request_id(),
                "correlation": request.correlation_id(),
                "flags": request.flags(),
                # A longer one comes from the deadline of the call.
                "timeout": request.timeout() if request.timeout() < 50_000_000 else 0,
            }
            text = np.array([json.dumps(about, sort_keys=True).encode()], dtype=np.object_)
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT0", text)]))
        return responses
"""

# Answers with the timeout that it is told of, in seconds.
ASKING_MODEL = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        seconds = [np.array([request.timeout() / 1e6], dtype=np.float32) for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT0", value)]) for value in seconds]
"""

# Two constants, for a model whose file a client sends.
SENT_MODEL = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        answer = np.array([17.0, 18.0], dtype=np.float32)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT0", answer)]) for _ in requests]
"""

_CONTROLS = """
  control_input [
    { name: "START" control [{ kind: CONTROL_SEQUENCE_START int32_false_true: [0, 1] }] },
    { name: "END" control [{ kind: CONTROL_SEQUENCE_END int32_false_true: [0, 1] }] },
    { name: "READY" control [{ kind: CONTROL_SEQUENCE_READY int32_false_true: [0, 1] }] },
    { name: "CORRID" control [{ kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 }] }
  ]
"""
DIRECT = f"sequence_batching {{ max_sequence_idle_microseconds: 60000000 direct {{}} {_CONTROLS} }}\n"
OLDEST = (
    "sequence_batching { max_sequence_idle_microseconds: 60000000\n"
    f"  oldest {{ max_candidate_sequences: 8 }} {_CONTROLS} }}\n"
)
QUEUE = """
dynamic_batching {
  priority_levels: 3 default_priority_level: 2
  default_queue_policy { timeout_action: REJECT allow_timeout_override: true max_queue_size: 8 }
  priority_queue_policy { key: 3 value { timeout_action: DELAY allow_timeout_override: true } }
}
instance_group [{ kind: KIND_CPU count: 1 }]
"""
LIMITED = """
instance_group [{
  kind: KIND_CPU count: 2
  rate_limiter { resources [{ name: "seats" count: 1 }, { name: "shared" global: true count: 1 }] priority: 2 }
}]
"""
WARM = """
model_warmup [{
  name: "some" batch_size: 0 count: 3
  inputs { key: "INPUT0" value { data_type: TYPE_FP32 dims: 8 random_data: true } }
}]
"""


def _ensemble(*models: str) -> str:
    """A chain: the output of each is the input of the next."""
    steps = []
    for number, model in enumerate(models):
        given = "INPUT0" if number == 0 else f"between{number}"
        made = "OUTPUT0" if number == len(models) - 1 else f"between{number + 1}"
        steps.append(
            f'{{ model_name: "{model}" model_version: -1 input_map {{ key: "INPUT0" value: "{given}" }} '
            f'output_map {{ key: "OUTPUT0" value: "{made}" }} }}'
        )
    return "ensemble_scheduling { step [" + ", ".join(steps) + "] }\n"


def write_ensemble(repository: Path, name: str, *models: str, extra: str = "") -> None:
    folder = repository / name
    (folder / "1").mkdir(parents=True)
    steps = _ensemble(*models)
    (folder / "config.pbtxt").write_text(f'platform: "ensemble"\n{pair("FP32", "[-1]")}{steps}{extra}')


def write_python(repository: Path, name: str, text: str, tensors: str, *, batch: int = 0, extra: str = "") -> None:
    folder = write_model(repository, name, tensors, batch=batch, extra=extra, backend="python")
    (folder / "1" / "model.py").write_text(text)


def _write_python_models(repository: Path) -> None:
    numbers = tensor("input", "INPUT0", "INT32", "[1]") + tensor("output", "OUTPUT0", "INT32", "[3]")
    write_python(repository, "adding_direct", ADDING_MODEL, numbers, batch=4, extra=DIRECT)
    write_python(repository, "adding_oldest", ADDING_MODEL, numbers, batch=4, extra=OLDEST)
    called = tensor("input", "MODEL", "STRING", "[1]") + pair("FP32", "[-1]")
    write_python(repository, "calling", CALLING_MODEL, called)
    told = tensor("input", "INPUT0", "FP32", "[-1]") + tensor("output", "OUTPUT0", "STRING", "[1]")
    write_python(repository, "telling", TELLING_MODEL, told)
    write_python(repository, "asking", ASKING_MODEL, pair("FP32", "[1]"))


def write_contract_repository(repository: Path) -> Path:
    """Every model of the corpus."""
    write_repository(repository)
    _write_python_models(repository)
    for name, policy in (
        ("newest", "latest { num_versions: 1 }"),
        ("all", "all {}"),
        ("two_newest", "latest { num_versions: 2 }"),
    ):
        folder = write_model(
            repository, f"versions_{name}", pair("FP32", "[-1]"), extra=f"version_policy {{ {policy} }}\n"
        )
        for version in ("3", "7"):
            (folder / version).mkdir()
    write_ensemble(repository, "chain", "id_fp32", "chain_end")
    write_model(repository, "chain_end", pair("FP32", "[-1]"))
    write_ensemble(repository, "chain_failing", "id_fp32", "failing")
    write_model(repository, "queue", pair("FP32", "[4]"), batch=1, extra=QUEUE + delay(300))
    write_model(repository, "limited", pair("FP32", "[-1]"), extra=LIMITED)
    write_model(repository, "warm", pair("FP32", "[-1]"), extra=WARM)
    write_model(repository, "counted", pair("FP32", "[-1]"))
    write_model(repository, "counted_batches", pair("FP32", "[4]"), batch=8)
    write_model(repository, "reshaped", _reshaped(), batch=4)
    write_model(repository, "optional", _optional())
    for name in ("control", "control_part", "control_traced"):
        write_model(repository, name, pair("FP32", "[-1]"))
    write_ensemble(repository, "control_chain", "control_part", "control_part")
    return repository


def _reshaped() -> str:
    given = 'input { name: "INPUT0" data_type: TYPE_FP32 dims: [1] reshape { shape: [] } }\n'
    return given + 'output { name: "OUTPUT0" data_type: TYPE_FP32 dims: [1] reshape { shape: [] } }\n'


def _optional() -> str:
    tensors = [tensor("input", "A", "FP32", "[-1]"), tensor("output", "OA", "FP32", "[-1]")]
    given = 'input { name: "B" data_type: TYPE_FP32 dims: [-1] optional: true }\n'
    return "".join(tensors) + given + tensor("output", "OB", "FP32", "[-1]")
