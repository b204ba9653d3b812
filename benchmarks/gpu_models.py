"""The model of `scripts/gpu-check`, and a backend directory with Triton's Python backend."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from serving.deployment.backend_directory import compose, plan
from serving.deployment.libraries import find_python_backend, find_triton

_CONFIG: Final = """backend: "python"
max_batch_size: 0
input [ {{ name: "INPUT0" data_type: TYPE_FP32 dims: [ -1 ] }} ]
output [ {{ name: "OUTPUT0" data_type: TYPE_FP32 dims: [ -1 ] }} ]
output [ {{ name: "WHERE" data_type: TYPE_STRING dims: [ 2 ] }} ]
instance_group [ {{ kind: KIND_{kind} count: 1 }} ]
"""
# Twice the input, computed by torch on the instance's own device where torch is there; WHERE says where.
_MODEL: Final = """
import numpy as np
import triton_python_backend_utils as pb_utils

try:
    import torch
except ImportError:
    torch = None


class TritonPythonModel:
    def initialize(self, args):
        self.kind = args["model_instance_kind"]
        use_gpu = self.kind == "GPU" and torch is not None and torch.cuda.is_available()
        self.device = f"cuda:{args['model_instance_device_id']}" if use_gpu else "cpu"

    def execute(self, requests):
        return [self.answer(pb_utils.get_input_tensor_by_name(request, "INPUT0").as_numpy()) for request in requests]

    def answer(self, values):
        if torch is None:
            doubled = 2 * values
        else:
            doubled = (2 * torch.from_numpy(values.copy()).to(self.device)).cpu().numpy()
        where = np.array([self.kind, self.device], dtype=object)
        return pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT0", doubled), pb_utils.Tensor("WHERE", where)])
"""


def write_models(folder: Path, kind: str) -> tuple[Path, Path]:
    """A model repository with `twice`, of instances of that kind (GPU, CPU), and a backend directory."""
    model = folder / "models" / "twice"
    (model / "1").mkdir(parents=True, exist_ok=True)
    (model / "config.pbtxt").write_text(_CONFIG.format(kind=kind))
    (model / "1" / "model.py").write_text(_MODEL)
    triton = find_triton()
    python = find_python_backend(triton)
    wanted = plan(triton, openvino_library=None, openvino_package=None, python_backend=python)
    return folder / "models", compose(folder, wanted)
