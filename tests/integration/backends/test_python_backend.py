"""Triton's Python backend, composed by us, runs models in the interpreter and the packages of the mesh."""

from __future__ import annotations

import sys

import numpy as np
from backend_server import BackendServer

MODEL = b"""
import json, sys
import numpy as np
import sklearn
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        about = json.dumps({"executable": sys.executable, "prefix": sys.prefix, "version": list(sys.version_info[:3])})
        responses = []
        for request in requests:
            values = pb_utils.get_input_tensor_by_name(request, "VALUES").as_numpy()
            responses.append(pb_utils.InferenceResponse([
                pb_utils.Tensor("DOUBLED", values * 2),
                pb_utils.Tensor("ABOUT", np.array([[about]], dtype=object)),
            ]))
        return responses
"""
CONFIG = """
backend: "python"
max_batch_size: 8
input [ { name: "VALUES" data_type: TYPE_FP32 dims: [ -1 ] } ]
output [ { name: "DOUBLED" data_type: TYPE_FP32 dims: [ -1 ] }, { name: "ABOUT" data_type: TYPE_STRING dims: [ 1 ] } ]
instance_group [ { kind: KIND_CPU } ]
"""


def test_runs_in_the_interpreter_of_the_mesh(triton_server: BackendServer) -> None:
    model = triton_server.load("python_model", CONFIG, {"1/model.py": MODEL})
    values = np.array([[1.0, 2.5]], np.float32)
    answer = triton_server.infer(model, {"VALUES": values})
    np.testing.assert_array_equal(answer["DOUBLED"], values * 2)
    about = answer["ABOUT"][0, 0].decode()
    assert f'"prefix": "{sys.prefix}"' in about
    assert f'"version": {list(sys.version_info[:3])}' in about


def test_model_code_that_fails_says_why(triton_server: BackendServer) -> None:
    reason = triton_server.refusal("broken", CONFIG, {"1/model.py": b"import no_such_package\n"})
    assert "No module named 'no_such_package'" in reason
