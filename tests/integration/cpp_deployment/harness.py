"""Replicas that run the libraries of `library/`, which a CMake project of its own builds."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton_grpc
from google.protobuf import json_format
from numpy.typing import NDArray

from serving._proto import records_pb2 as pb
from serving.config import EtcdConfig
from serving.deployment import libraries
from tests.integration.replica.replica_harness import ROOT, ReplicaProcess, build_directory, replica_config

PROJECT = Path(__file__).parent / "library"
SDK = ROOT / "serving" / "_lib" / "sdk"


def build_libraries(folder: Path) -> Path:
    """Builds the project as a user would, far from the mesh's source tree; the folder of the libraries."""
    shutil.copytree(PROJECT, folder / "project")
    build = folder / "build"
    package = f"-DServingMesh_DIR={SDK / 'lib/cmake/ServingMesh'}"
    run(["cmake", "-S", str(folder / "project"), "-B", str(build), package, "-DCMAKE_BUILD_TYPE=RelWithDebInfo"])
    run(["cmake", "--build", str(build)])
    return build


def run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"
    return done.stdout


def backends(folder: Path) -> Path:
    """A backend directory with the models of tests and ours for the code of deployments."""
    made = folder / "backends"
    if not made.exists():
        made.mkdir(parents=True)
        (made / "identity").symlink_to(build_directory() / "test_backends" / "identity")
        (made / "deployment").symlink_to(ROOT / "serving" / "_lib" / "backends" / "deployment")
    return made


def prepared(folder: Path, code: Path, repository: Path | None) -> list[str]:
    """A prepare command whose work is done already."""
    nothing = folder / "no-models"
    nothing.mkdir(parents=True, exist_ok=True)
    triton = libraries.find_triton()
    node = pb.PreparedNode(
        repository_path=str(repository or nothing),
        backend_directory=str(backends(folder)),
        triton_library=str(triton.library),
        code_path=str(code),
    )
    answer = folder / "prepared.json"
    answer.write_text(json_format.MessageToJson(node, indent=None) + "\n")
    return ["cat", str(answer)]


def config_of(
    folder: Path,
    code: Path,
    library: str,
    *,
    repository: Path | None = None,
    args: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    etcd: EtcdConfig | None = None,
    replica_id: str = "model-r1-0",
    deployment: str = "model",
    **cpp: Any,
) -> pb.ReplicaConfig:
    made = replica_config(prepared(folder / replica_id, code, repository), etcd, replica_id=replica_id)
    made.deployment = deployment
    made.log_level = "debug"
    made.cpp.CopyFrom(
        pb.CppDeployment(
            library=f"lib{library}.so",
            args=json.dumps(args) if args else "",
            config=json.dumps(config) if config else "",
            **cpp,
        )
    )
    return made


def start(folder: Path, config: pb.ReplicaConfig) -> ReplicaProcess:
    return ReplicaProcess(folder / config.id, config)


def in_flight(metrics_address: str) -> float:
    """Requests that run or wait in a replica."""
    with urllib.request.urlopen(f"http://{metrics_address}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("mesh_ingress_in_flight "))


def tensor(name: str, values: NDArray[Any], datatype: str) -> triton_grpc.InferInput:
    made = triton_grpc.InferInput(name, list(values.shape), datatype)
    made.set_data_from_numpy(values)
    return made


def floats(*values: float) -> NDArray[np.float32]:
    return np.array(values, dtype=np.float32)


def words(*texts: str) -> NDArray[np.object_]:
    return np.array([text.encode() for text in texts], dtype=object)


def ask(address: str, x: NDArray[np.float32], what: str = "", *, model: str = "model", **more: Any) -> Any:
    """The answer of `scale` to one request."""
    inputs = [tensor("x", x, "FP32")]
    if what:
        inputs.append(tensor("what", words(what), "BYTES"))
    with triton_grpc.InferenceServerClient(address) as client:
        return client.infer(model, inputs, **{"client_timeout": 30, **more})
