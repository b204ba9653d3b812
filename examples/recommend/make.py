"""Makes all that the application needs: data, feature tables, the ranking model, the library.

    python -m examples.recommend.make [FOLDER]        (examples/recommend/build)

Needs a C++ compiler and CMake, as any deployment in C++ does. Takes some seconds.
"""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor

import serving
from examples.recommend import data, features

HERE: Final = Path(__file__).parent
SDK: Final = Path(serving.__file__).parent / "_lib" / "sdk"
HIDDEN_UNITS: Final = (32, 16)
RANKER_CONFIG: Final = f"""
name: "ranker"
backend: "openvino"
default_model_filename: "model.onnx"
max_batch_size: 0
input [ {{ name: "features" data_type: TYPE_FP32 dims: [ -1, {features.FEATURES} ] }} ]
output [ {{ name: "stars" data_type: TYPE_FP32 dims: [ -1, 1 ] }} ]
instance_group [ {{ kind: KIND_CPU count: 2 }} ]
"""


def train(ratings: data.Ratings, known: features.Tables) -> MLPRegressor:
    rows = np.concatenate(
        [features.features(known, user, ratings.movies[ratings.users == user]) for user in range(len(known.affinity))]
    )
    network = MLPRegressor(
        hidden_layer_sizes=HIDDEN_UNITS, alpha=1e-3, batch_size=256, max_iter=25, tol=0.0, random_state=7
    )
    network.n_iter_no_change = network.max_iter  # a fixed number of passes, so that every run does the same work
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return network.fit(rows, ratings.stars)  # both by user, in the order of the ratings


def to_onnx(network: MLPRegressor) -> onnx.ModelProto:
    """`features` [-1, FEATURES] FP32 → `stars` [-1, 1] FP32."""
    nodes, constants = [], []
    last = len(network.coefs_) - 1
    before = "features"
    for layer, (weights, biases) in enumerate(zip(network.coefs_, network.intercepts_, strict=True)):
        names = [before, f"weights_{layer}", f"biases_{layer}"]
        constants.append(numpy_helper.from_array(weights.astype(np.float32), names[1]))
        constants.append(numpy_helper.from_array(biases.astype(np.float32), names[2]))
        before = "stars" if layer == last else f"hidden_{layer}"
        nodes.append(helper.make_node("Gemm", names, ["stars" if layer == last else f"sum_{layer}"]))
        if layer != last:
            nodes.append(helper.make_node("Relu", [f"sum_{layer}"], [before]))
    graph = helper.make_graph(
        nodes,
        "ranker",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["movies", features.FEATURES])],
        [helper.make_tensor_value_info("stars", TensorProto.FLOAT, ["movies", 1])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def build_library(folder: Path, code: Path) -> None:
    """With CMake, as the README does it by hand."""
    build = folder / "cmake"
    package = f"-DServingMesh_DIR={SDK / 'lib' / 'cmake' / 'ServingMesh'}"
    kind = "-DCMAKE_BUILD_TYPE=Release"
    subprocess.run(["cmake", "-S", str(HERE / "src"), "-B", str(build), package, kind], check=True)
    subprocess.run(["cmake", "--build", str(build)], check=True)
    subprocess.run(["cmake", "--install", str(build), "--prefix", str(code)], check=True)


def make(folder: Path) -> features.Tables:
    ratings = data.make()
    known = features.tables(ratings)
    code = folder / "code"
    features.write(known, code)
    ranker = folder / "models" / "ranker"
    (ranker / "1").mkdir(parents=True, exist_ok=True)
    (ranker / "config.pbtxt").write_text(RANKER_CONFIG.lstrip())
    (ranker / "1" / "model.onnx").write_bytes(to_onnx(train(ratings, known)).SerializeToString(deterministic=True))
    build_library(folder, code)
    return known


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "build")
