"""One real `tritonserver` (the wheel's binary) per session, with our backends, loading models on request."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import tritonclient.grpc as triton_grpc
from backend_server import BackendServer

from serving.deployment import backend_directory, libraries
from serving.local.ports import free_ports

REPOSITORY = Path(__file__).resolve().parents[3]
START_TIMEOUT_S = 120.0


def _built(usual: Path, in_build_folder: str) -> Path:
    """The library of the usual build, or of the build folder that $MESH_TEST_BUILD names, or of the newest other."""
    chosen = os.environ.get("MESH_TEST_BUILD", "")
    if chosen:
        usual = Path(chosen) / in_build_folder
    if usual.is_file():
        return usual
    others = [] if chosen else list((REPOSITORY / "build").glob(f"*/{in_build_folder}"))
    if not others:
        pytest.fail(f"{usual} is not built; run `make setup`")
    return max(others, key=lambda path: path.stat().st_mtime)


@pytest.fixture(scope="session")
def openvino_library() -> Path:
    """A build of the OpenVINO backend."""
    name = "_lib/backends/openvino/libtriton_openvino.so"
    return _built(REPOSITORY / "serving" / name, f"out/{name}")


@pytest.fixture(scope="session")
def identity_folder() -> Path:
    """The backend directory that holds a build of the identity backend."""
    name = "test_backends/identity/libtriton_identity.so"
    return _built(REPOSITORY / "build" / "cmake" / name, name).parent.parent


@pytest.fixture(scope="session")
def composed_backends(tmp_path_factory: pytest.TempPathFactory, openvino_library: Path, identity_folder: Path) -> Path:
    """The backend directory as a replica gets it, with the identity backend added."""
    triton = libraries.find_triton()
    plan = backend_directory.plan(
        triton,
        openvino_library=openvino_library,
        openvino_package=libraries.find_openvino(),
        python_backend=libraries.find_python_backend(triton),
        extra_directories=[identity_folder],
    )
    return backend_directory.compose(tmp_path_factory.mktemp("node"), plan)


def _command(backends: Path, repository: Path, ports: list[int]) -> list[str]:
    wheel = libraries.find_triton()
    assert wheel.backends is not None, "these tests need the wheel's Triton"
    addresses = [f"--{kind}-address=127.0.0.1" for kind in ("http", "grpc", "metrics")]
    numbers = [f"--{kind}-port={port}" for kind, port in zip(("http", "grpc", "metrics"), ports, strict=True)]
    return [
        str(wheel.backends.parent / "bin" / "tritonserver"),
        f"--model-repository={repository}",
        f"--backend-directory={backends}",
        "--model-control-mode=explicit",
        "--exit-timeout-secs=10",
        *addresses,
        *numbers,
    ]


@pytest.fixture(scope="session")
def triton_server(tmp_path_factory: pytest.TempPathFactory, composed_backends: Path) -> Iterator[BackendServer]:
    """A running server with an empty model repository, to which tests add models of their own."""
    folder = tmp_path_factory.mktemp("triton")
    repository = folder / "models"
    repository.mkdir()
    ports = free_ports(3)
    log = folder / "tritonserver.log"
    environment = {**os.environ, "LD_LIBRARY_PATH": ":".join(map(str, libraries.find_triton().search_path))}
    preload = os.environ.get("MESH_TEST_PRELOAD", "")  # a sanitizer's library, for builds with one
    if preload:
        environment["LD_PRELOAD"] = preload
    with log.open("wb") as output:
        process = subprocess.Popen(
            _command(composed_backends, repository, ports), env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    client = triton_grpc.InferenceServerClient(f"127.0.0.1:{ports[1]}")
    server = BackendServer(client, repository, log, process.pid)
    try:
        _wait_until_live(process, client, log)
        yield server
        assert process.poll() is None, f"tritonserver died:\n{server.log_text()[-4000:]}"
    finally:
        client.close()
        process.terminate()
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if os.environ.get("MESH_TEST_SHOW_LOG"):
            sys.stderr.write(log.read_text(errors="replace"))


def _wait_until_live(process: subprocess.Popen[bytes], client: triton_grpc.InferenceServerClient, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            if client.is_server_live(client_timeout=5):
                return
        except triton_grpc.InferenceServerException:
            pass  # not listening yet
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"tritonserver did not start:\n{log.read_text(errors='replace')[-4000:]}")
        time.sleep(0.05)
