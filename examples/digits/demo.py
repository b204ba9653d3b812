"""`make demo`: a mesh of two Ray clusters, the digits application on it, and real requests with real answers."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from examples.digits.data import Split, load_split
from examples.openvino_quietly import without_telemetry
from serving import Connection, MeshClient, load_spec
from serving.errors import MeshError
from serving.local.mesh import UpOptions, down, up

HERE: Final = Path(__file__).resolve().parent
DEFAULT_DIR: Final = HERE.parent.parent / "build" / "demo-mesh"
WANTED_ACCURACY: Final = 0.97

Images = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Run:
    """Answers in the order of the images, and how long each request took."""

    classes: list[int]
    seconds: list[float]

    def percentiles(self) -> str:
        p50, p90, p99 = (1000 * float(np.percentile(self.seconds, q)) for q in (50, 90, 99))
        return f"p50 {p50:.2f} ms, p90 {p90:.2f} ms, p99 {p99:.2f} ms"


def say(text: str) -> None:
    print(f"  {text}", flush=True)


def ask_each(images: Images, ask: Callable[[Images], NDArray[np.float32]]) -> Run:
    """One request per image, one after the other."""
    classes, seconds = [], []
    for image in images:
        started = time.perf_counter()
        answer = ask(image[np.newaxis, :])
        seconds.append(time.perf_counter() - started)
        classes.append(int(answer.argmax(axis=1)[0]))
    return Run(classes, seconds)


def ask_with_tritonclient(addresses: list[str], images: Images) -> Run:
    """Plain `tritonclient`, straight to the replicas in turn."""
    import tritonclient.grpc as triton

    clients = [triton.InferenceServerClient(address) for address in addresses]
    turn = 0

    def ask(image: Images) -> NDArray[np.float32]:
        nonlocal turn
        turn += 1
        tensor = triton.InferInput("image", list(image.shape), "FP32")
        tensor.set_data_from_numpy(image)
        answer: NDArray[np.float32] = clients[turn % len(clients)].infer("digits", [tensor]).as_numpy("probabilities")
        return answer

    try:
        return ask_each(images, ask)
    finally:
        for client in clients:
            client.close()


def ask_outside(images: Images) -> list[int]:
    """The same model without the mesh: OpenVINO in this process.

    In full precision: by itself OpenVINO computes in bfloat16 on processors that are faster with it.
    """
    without_telemetry()
    import openvino

    model = str(HERE / "models" / "digits" / "1" / "model.onnx")
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return [int(compiled({"image": image[np.newaxis, :]})["probabilities"].argmax(axis=1)[0]) for image in images]


def accuracy(classes: list[int], split: Split) -> float:
    return float(np.mean(np.array(classes) == split.held_out_labels))


def run_requests(client: MeshClient, split: Split) -> bool:
    """Sends all held-out images in two ways and reports; True when the answers are what they should be."""
    endpoints = client.endpoints("digits")
    images = split.held_out_images
    say(f"{len(images)} requests with tritonclient, straight to the replicas")
    direct = ask_with_tritonclient([endpoint.address for endpoint in endpoints], images)
    say(f"{len(images)} requests with the SDK, which follows discovery")
    mesh = ask_each(images, lambda image: client.infer("digits", "digits", {"image": image})["probabilities"])
    outside = ask_outside(images)
    print("\nResult")
    say(f"accuracy on held-out images: {accuracy(mesh.classes, split):.1%} (wanted: at least {WANTED_ACCURACY:.0%})")
    say(f"equal to the model outside the mesh: {mesh.classes == outside and direct.classes == outside}")
    say(f"latency, tritonclient: {direct.percentiles()}")
    say(f"latency, SDK:          {mesh.percentiles()}")
    for endpoint in endpoints:
        say(f"replica {endpoint.id} on cluster {endpoint.cluster}: {endpoint.address}, pid {endpoint.pid}")
    return mesh.classes == outside == direct.classes and accuracy(mesh.classes, split) >= WANTED_ACCURACY


def deploy_and_ask(mesh_dir: Path, split: Split) -> bool:
    """The application from its deployment to its deletion; True when its answers are what they should be."""
    with MeshClient(Connection.local(mesh_dir)) as client:
        print("\nDeploying examples/digits")
        started = time.monotonic()
        client.deploy(load_spec(HERE / "app.yaml"), wait=True, timeout_s=180, on_progress=say)
        say(f"answers after {time.monotonic() - started:.1f} s")
        print("\nSending requests")
        correct = run_requests(client, split)
        client.delete("digits", wait=True)
    return correct


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, default=DEFAULT_DIR, help="folder of the demonstration's mesh")
    parser.add_argument("--clusters", type=int, default=2)
    options = parser.parse_args()
    split = load_split()
    started = time.monotonic()
    print("Starting a mesh")
    try:
        up(UpOptions(options.dir, clusters=options.clusters), say)  # an `up` that fails has ended what it started
        try:
            say(f"ready after {time.monotonic() - started:.1f} s")
            correct = deploy_and_ask(options.dir, split)
        finally:
            print("\nStopping the mesh")
            down(options.dir, say)
    except MeshError as error:
        print(f"\nmake demo: {error}", file=sys.stderr)
        return 1
    print("\nDone." if correct else "\nThe answers are not what they should be.")
    return 0 if correct else 1


if __name__ == "__main__":
    sys.exit(main())
