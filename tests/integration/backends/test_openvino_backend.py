"""The OpenVINO backend in a real Triton: right answers, batches, instances, versions, outputs, memory."""

from __future__ import annotations

import concurrent.futures
import sys
from pathlib import Path

import numpy as np
import openvino as ov
import psutil
import pytest
import tritonclient.grpc as triton_grpc
from backend_models import DIGITS, DIGITS_CONFIG, DIGITS_MODEL, adder, adder_config, counter_ir, run_outside
from backend_server import BackendServer, make_inputs

sys.path.insert(0, str(DIGITS))
from data import load_split


def infer_at_once(server: BackendServer, model: str, rows: np.ndarray, requests: int) -> list[np.ndarray]:
    """Sends `requests` equal parts of `rows` at the same time; the answers' logits in order."""
    parts = np.array_split(rows, requests)
    with concurrent.futures.ThreadPoolExecutor(requests) as pool:
        answers = pool.map(lambda part: server.infer(model, {"image": part})["logits"], parts)
        return list(answers)


@pytest.fixture(scope="module")
def digits(triton_server: BackendServer) -> str:
    return triton_server.load("digits", DIGITS_CONFIG, {"1/model.onnx": DIGITS_MODEL})


def test_digits_image_by_image(triton_server: BackendServer, digits: str) -> None:
    split = load_split()
    outside = run_outside(DIGITS_MODEL, {"image": split.held_out_images})
    alone = np.concatenate(
        [triton_server.infer(digits, {"image": image[None]})["probabilities"] for image in split.held_out_images]
    )
    np.testing.assert_allclose(alone, outside["probabilities"], atol=1e-6)
    correct = alone.argmax(axis=1) == split.held_out_labels
    assert correct.mean() >= 0.97
    np.testing.assert_array_equal(alone.argmax(axis=1), outside["probabilities"].argmax(axis=1))


def test_onnx_and_ir_answer_alike(triton_server: BackendServer, digits: str, tmp_path: Path) -> None:
    ov.save_model(ov.Core().read_model(DIGITS_MODEL), tmp_path / "model.xml", compress_to_fp16=False)
    files: dict[str, bytes | Path] = {f"1/model.{end}": tmp_path / f"model.{end}" for end in ("xml", "bin")}
    as_ir = triton_server.load("digits_ir", None, files)
    assert triton_server.client.get_model_config(as_ir).config.backend == "openvino"
    images = load_split().held_out_images[:4]
    from_onnx = triton_server.infer(digits, {"image": images})
    from_ir = triton_server.infer(as_ir, {"image": images})
    for name, tensor in from_onnx.items():
        np.testing.assert_allclose(from_ir[name], tensor, atol=1e-6)


def test_requests_of_a_batch_are_computed_together(triton_server: BackendServer) -> None:
    config = DIGITS_CONFIG.replace("dynamic_batching { }", "dynamic_batching { max_queue_delay_microseconds: 500000 }")
    model = triton_server.load("batched", config, {"1/model.onnx": DIGITS_MODEL})
    images = load_split().held_out_images[:64]
    answers = np.concatenate(infer_at_once(triton_server, model, images, 16))
    np.testing.assert_allclose(answers, run_outside(DIGITS_MODEL, {"image": images})["logits"], atol=1e-4)
    statistics = triton_server.statistics(model)
    assert statistics.inference_count == 64
    assert statistics.inference_stats.success.count == 16
    assert statistics.execution_count < 16
    assert max(batch.batch_size for batch in statistics.batch_stats) > 4


def test_statistics_have_durations(triton_server: BackendServer) -> None:
    model = triton_server.load("measured", DIGITS_CONFIG, {"1/model.onnx": DIGITS_MODEL})
    triton_server.infer(model, {"image": np.zeros((3, 64), np.float32)})
    statistics = triton_server.statistics(model).inference_stats
    assert statistics.success.count == 1
    parts = [statistics.queue, statistics.compute_input, statistics.compute_infer, statistics.compute_output]
    assert all(part.count == 1 for part in parts)
    assert statistics.compute_infer.ns > 0
    assert sum(part.ns for part in parts) <= statistics.success.ns


def test_only_requested_outputs_come(triton_server: BackendServer, digits: str) -> None:
    images = load_split().held_out_images[:2]
    assert set(triton_server.infer(digits, {"image": images})) == {"logits", "probabilities"}
    for _ in range(3):  # outputs that were wrapped before must not be written to again
        for name in ("logits", "probabilities"):
            answer = triton_server.infer(digits, {"image": images}, outputs=[name])
            assert set(answer) == {name}
            np.testing.assert_allclose(answer[name], run_outside(DIGITS_MODEL, {"image": images})[name], atol=1e-4)


def test_several_instances_share_the_load(triton_server: BackendServer) -> None:
    config = DIGITS_CONFIG.replace("count: 1", "count: 3").replace("dynamic_batching { }", "")
    model = triton_server.load("three", config, {"1/model.onnx": DIGITS_MODEL})
    images = load_split().held_out_images[:240]
    answers = np.concatenate(infer_at_once(triton_server, model, images, 24))
    np.testing.assert_allclose(answers, run_outside(DIGITS_MODEL, {"image": images})["logits"], atol=1e-4)
    assert triton_server.statistics(model).inference_count == 240


def test_versions_answer_each_with_their_own(triton_server: BackendServer) -> None:
    config = adder_config("version_policy { all { } }")
    files: dict[str, bytes | Path] = {"1/model.onnx": adder(), "2/model.onnx": adder(swapped=True)}
    model = triton_server.load("versions", config, files)
    left, right = np.ones((1, 4), np.float32), np.full((1, 4), 2, np.float32)
    for version, total in (("1", left + right), ("2", left - right)):
        answer = triton_server.infer(model, {"LEFT": left, "RIGHT": right}, version=version)
        np.testing.assert_array_equal(answer["SUM"], total)
        assert triton_server.statistics(model, version).inference_count == 1


def test_inputs_are_matched_by_name(triton_server: BackendServer) -> None:
    model = triton_server.load("named", adder_config(), {"1/model.onnx": adder()})
    left, right = np.arange(8, dtype=np.float32).reshape(2, 4), np.full((2, 4), 5, np.float32)
    answer = triton_server.infer(model, {"RIGHT": right, "LEFT": left})
    np.testing.assert_array_equal(answer["SUM"], left + right)
    np.testing.assert_array_equal(answer["DIFFERENCE"], left - right)


def test_warm_up_runs_before_the_model_is_ready(triton_server: BackendServer) -> None:
    sample = 'key: "image" value { data_type: TYPE_FP32 dims: [ 64 ] zero_data: true }'
    warm = f'model_warmup [ {{ name: "zeros" batch_size: 4 count: 2 inputs {{ {sample} }} }} ]'
    model = triton_server.load("warm", DIGITS_CONFIG + warm, {"1/model.onnx": DIGITS_MODEL})
    statistics = triton_server.statistics(model)
    assert statistics.inference_count == 8, "Triton counts the rows of its warm-up"
    assert triton_server.infer(model, {"image": np.zeros((1, 64), np.float32)})["logits"].shape == (1, 10)


def test_state_of_one_request_is_not_seen_by_the_next(triton_server: BackendServer, tmp_path: Path) -> None:
    model = triton_server.load("counter", None, counter_ir(tmp_path))
    for value in (3.0, 4.0):
        answer = triton_server.infer(model, {"VALUE": np.array([[value]], np.float32)})
        assert answer["TOTAL"][0, 0] == value


def test_threads_and_streams_by_parameters(triton_server: BackendServer) -> None:
    parameters = "".join(
        f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}\n'
        for key, value in (("INFERENCE_NUM_THREADS", "2"), ("NUM_STREAMS", "1"), ("PERFORMANCE_HINT", "LATENCY"))
    )
    model = triton_server.load("tuned", DIGITS_CONFIG + parameters, {"1/model.onnx": DIGITS_MODEL})
    assert triton_server.infer(model, {"image": np.zeros((1, 64), np.float32)})["logits"].shape == (1, 10)


def test_empty_batches_and_big_batches_at_the_limit(triton_server: BackendServer, digits: str) -> None:
    images = load_split().held_out_images[:64]
    assert triton_server.infer(digits, {"image": images})["logits"].shape == (64, 10)
    too_many = make_inputs({"image": np.zeros((65, 64), np.float32)})
    with pytest.raises(triton_grpc.InferenceServerException, match="batch-size must be <= 64"):
        triton_server.client.infer(digits, too_many)


def test_unloading_frees_memory(triton_server: BackendServer) -> None:
    """Loading and unloading a model with 64 MB of weights does not add up."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = numpy_helper.from_array(np.random.default_rng(1).normal(size=(4096, 4096)).astype(np.float32), "W")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["X", "W"], ["Y"])],
        "big",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["batch", 4096])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, ["batch", 4096])],
        [weights],
    )
    opset = [helper.make_opsetid("", 17)]
    content = onnx.ModelProto.SerializeToString(helper.make_model(graph, opset_imports=opset, ir_version=8))
    model = triton_server.add("big", None, {"1/model.onnx": content})
    sizes = []
    for _ in range(6):
        triton_server.client.load_model(model)
        triton_server.infer(model, {"X": np.ones((1, 4096), np.float32)})
        triton_server.client.unload_model(model)
        _wait_until_unloaded(triton_server, model)
        sizes.append(psutil.Process(triton_server.pid).memory_info().rss)
    assert sizes[-1] - sizes[1] < 64 * 2**20, sizes


def _wait_until_unloaded(server: BackendServer, model: str) -> None:
    while True:
        entries = [entry for entry in server.client.get_model_repository_index().models if entry.name == model]
        if all(entry.state in ("", "UNAVAILABLE") and entry.reason in ("", "unloaded") for entry in entries):
            return
