"""Trains the digits network in a few seconds and writes it as ONNX.

    python -m examples.digits.train

The network is small: 64 pixels, two hidden layers, ten classes. Pixels are scaled inside the model, so that a client
sends the images as they are.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

from examples.digits.data import Split, load_split

MODEL_FILE = Path(__file__).parent / "models" / "digits" / "1" / "model.onnx"
HIDDEN_UNITS = (96, 48)
WEIGHT_SEED = 7
OPSET = 13
IR_VERSION = 8


def shifted(images: NDArray[np.float32], rows: int, columns: int) -> NDArray[np.float32]:
    """The images moved down and right by whole pixels; what leaves the frame is lost, what enters is white."""
    frames = np.pad(images.reshape(-1, 8, 8), ((0, 0), (1, 1), (1, 1)))
    return frames[:, 1 - rows : 9 - rows, 1 - columns : 9 - columns].reshape(-1, 64)


def train(split: Split) -> MLPClassifier:
    """Trains on the images and on their copies moved by one pixel, which a written digit may as well be."""
    moves = [(0, 0), (0, 1), (0, -1), (1, 0), (-1, 0)]
    images = np.concatenate([shifted(split.train_images, *move) for move in moves]) / np.float32(16)
    labels = np.tile(split.train_labels, len(moves))
    network = MLPClassifier(HIDDEN_UNITS, alpha=1e-3, batch_size=128, max_iter=30, tol=0.0, random_state=WEIGHT_SEED)
    network.n_iter_no_change = network.max_iter  # a fixed number of passes, so that every run does the same work
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it stops after the fixed number of passes
        return network.fit(images.astype(np.float32), labels)


def to_onnx(network: MLPClassifier) -> onnx.ModelProto:
    """`image` [-1, 64] FP32 → `logits` and `probabilities` [-1, 10] FP32."""
    nodes = [helper.make_node("Mul", ["image", "pixel_scale"], ["hidden_0"])]
    constants = [numpy_helper.from_array(np.array(1 / 16, np.float32), "pixel_scale")]
    last = len(network.coefs_) - 1
    for layer, (weights, biases) in enumerate(zip(network.coefs_, network.intercepts_, strict=True)):
        names = [f"hidden_{layer}", f"weights_{layer}", f"biases_{layer}"]
        constants.append(numpy_helper.from_array(weights.astype(np.float32), names[1]))
        constants.append(numpy_helper.from_array(biases.astype(np.float32), names[2]))
        if layer == last:
            nodes.append(helper.make_node("Gemm", names, ["logits"]))
        else:
            nodes.append(helper.make_node("Gemm", names, [f"sum_{layer}"]))
            nodes.append(helper.make_node("Relu", [f"sum_{layer}"], [f"hidden_{layer + 1}"]))
    nodes.append(helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1))
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 10]) for name in ("logits", "probabilities")],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    return model


def main() -> None:
    split = load_split()
    network = train(split)
    correct = network.predict(split.held_out_images / np.float32(16)) == split.held_out_labels
    MODEL_FILE.parent.mkdir(parents=True, exist_ok=True)
    MODEL_FILE.write_bytes(to_onnx(network).SerializeToString(deterministic=True))
    print(f"{MODEL_FILE}: {MODEL_FILE.stat().st_size} bytes, {correct.mean():.2%} of {len(correct)} held-out images")


if __name__ == "__main__":
    main()
