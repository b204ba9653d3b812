"""Finding libraries, and composing the folder of backends out of links to them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from serving.deployment import backend_directory, libraries
from serving.deployment.backend_directory import Link, Script, compose, plan
from serving.deployment.libraries import MissingPiece, PythonBackend, Triton
from serving.errors import FailedPrecondition, InvalidArgument


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


@pytest.fixture
def installation(tmp_path: Path) -> Triton:
    """An installation as under /opt/tritonserver, with backends of its own."""
    root = tmp_path / "opt" / "tritonserver"
    touch(root / "lib" / "libtritonserver.so")
    for name in ("python", "openvino", "tensorrt"):
        touch(root / "backends" / name / f"libtriton_{name}.so")
    touch(root / "backends" / "not_a_backend" / "README")
    return libraries.find_triton(str(root))


@pytest.fixture
def python_backend(tmp_path: Path) -> PythonBackend:
    stub = touch(tmp_path / "real stub" / "triton_python_backend_stub")
    stub.write_text('#!/bin/sh\necho "$1|$PATH|$LD_LIBRARY_PATH|${PYTHONHOME-none}"\n')
    stub.chmod(0o755)
    library = touch(tmp_path / "p" / "libtriton_python.so")
    utilities = touch(tmp_path / "p" / "triton_python_backend_utils.py")
    return PythonBackend(library, utilities, stub, tmp_path / "it's a venv" / "bin", tmp_path / "lib python")


def backends_of(wanted: backend_directory.Plan) -> dict[str, Path]:
    """Targets of the links in the backend directory, by their path in it."""
    start = "triton/lib/backends/"
    return {
        path.removeprefix(start): item.target
        for path, item in wanted.items()
        if path.startswith(start) and isinstance(item, Link)
    }


def test_ours_beside_those_of_the_installation(installation: Triton, tmp_path: Path) -> None:
    library = touch(tmp_path / "ours" / "libtriton_openvino.so")
    found = backends_of(
        plan(installation, openvino_library=library, openvino_package=tmp_path / "ov", python_backend=None)
    )
    assert installation.backends is not None
    assert found == {
        "tensorrt": installation.backends / "tensorrt",
        "openvino/libtriton_openvino.so": library,
        "onnxruntime/libtriton_onnxruntime.so": library,
    }


def test_a_real_onnxruntime_is_not_replaced(installation: Triton, tmp_path: Path) -> None:
    assert installation.backends is not None
    touch(installation.backends / "onnxruntime" / "libtriton_onnxruntime.so")
    library = touch(tmp_path / "ours" / "libtriton_openvino.so")
    found = backends_of(plan(installation, openvino_library=library, openvino_package=None, python_backend=None))
    assert found["onnxruntime"] == installation.backends / "onnxruntime"


def test_extra_directories_overrule(installation: Triton, tmp_path: Path) -> None:
    for extra in ("one", "two"):
        touch(tmp_path / extra / "tensorrt" / "libtriton_tensorrt.so")
    touch(tmp_path / "one" / "in_python" / "model.py")
    found = backends_of(
        plan(
            installation,
            openvino_library=None,
            openvino_package=None,
            python_backend=None,
            extra_directories=[tmp_path / "one", tmp_path / "two"],
        )
    )
    assert found["tensorrt"] == tmp_path / "two" / "tensorrt"
    assert found["in_python"] == tmp_path / "one" / "in_python"
    with pytest.raises(InvalidArgument, match="absent does not exist"):
        plan(
            installation,
            openvino_library=None,
            openvino_package=None,
            python_backend=None,
            extra_directories=[tmp_path / "absent"],
        )


def test_composed_once_per_plan(tmp_path: Path) -> None:
    first = {"triton/lib/backends/a/libtriton_a.so": Link(touch(tmp_path / "a.so")), "b": Link(tmp_path)}
    place = compose(tmp_path / "cache", first)
    assert (place / "a" / "libtriton_a.so").resolve() == tmp_path / "a.so"
    assert (place.parents[2] / "b").readlink() == tmp_path
    inode = place.stat().st_ino
    assert compose(tmp_path / "cache", dict(reversed(first.items()))) == place
    assert place.stat().st_ino == inode
    assert compose(tmp_path / "cache", {**first, "b": Link(tmp_path / "a.so")}) != place
    assert compose(tmp_path / "cache", {**first, "c": Script("x")}) != place


def test_leftovers_of_a_killed_composition_are_removed(tmp_path: Path) -> None:
    wanted = {"triton/lib/backends/a/libtriton_a.so": Link(touch(tmp_path / "a.so"))}
    place = compose(tmp_path / "cache", wanted)
    hashed = place.parents[2]
    hashed.rename(hashed.with_name(hashed.name + ".part"))  # as if killed before the last step
    assert compose(tmp_path / "cache", wanted) == place
    assert [path.name for path in hashed.parent.iterdir() if path.suffix == ".part"] == []


def test_the_stub_is_started_with_our_interpreter_first(
    installation: Triton, python_backend: PythonBackend, tmp_path: Path
) -> None:
    wanted = plan(installation, openvino_library=None, openvino_package=None, python_backend=python_backend)
    stub = compose(tmp_path / "cache", wanted) / "python" / "triton_python_backend_stub"
    environment = {"PATH": "/usr/bin:/bin", "LD_LIBRARY_PATH": "/before", "PYTHONHOME": "/elsewhere"}
    output = subprocess.run([stub, "an argument"], env=environment, capture_output=True, text=True, check=True).stdout
    interpreter, libpython = python_backend.interpreter_folder, python_backend.libpython_folder
    assert output == f"an argument|{interpreter}:/usr/bin:/bin|{libpython}:/before|none\n"
    del environment["LD_LIBRARY_PATH"]
    output = subprocess.run([stub, "x"], env=environment, capture_output=True, text=True, check=True).stdout
    assert f"|{libpython}|" in output, "no empty entry, which would stand for the current folder"


def test_the_wheel_is_found_with_a_stub_for_this_python() -> None:
    triton = libraries.find_triton()
    assert triton.library.name.startswith("libtritonserver")
    assert libraries.find_triton(str(triton.library)) == triton, "named by its path, it is still the wheel"
    backend = libraries.find_python_backend(triton)
    assert f"{sys.version_info.major}.{sys.version_info.minor}" in str(backend.stub)
    ray = libraries.find_ray_cpp()
    assert (ray.library_folder / "libray_api.so").is_file()
    path = libraries.replica_library_path(triton, ray).split(":")
    assert path == [str(ray.library_folder), *map(str, triton.search_path)]


def test_missing_pieces_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingPiece, match=r"nowhere is not there or holds no lib/.*; correct the setting"):
        libraries.find_triton(str(tmp_path / "nowhere"))
    with pytest.raises(MissingPiece, match=r"libtriton_openvino\.so is not there; build it"):
        libraries.find_openvino_backend(tmp_path)
    with pytest.raises(FailedPrecondition, match=r"libmesh_actor\.so is not there; build it"):
        libraries.find_actor_library(tmp_path)
    monkeypatch.setattr(libraries, "_package_folder", lambda _: None)
    with pytest.raises(MissingPiece, match="pip install nvidia-pytriton"):
        libraries.find_triton()
    with pytest.raises(MissingPiece, match="pip install openvino"):
        libraries.find_openvino()
    with pytest.raises(MissingPiece, match="pip install 'ray"):
        libraries.find_ray_cpp()
    findings = libraries.survey(own_libraries=tmp_path)
    assert len(findings) == 6
    assert all(finding.path is None and finding.problem and finding.remedy for finding in findings)


def test_an_installation_with_a_stub_for_another_python(installation: Triton) -> None:
    assert installation.backends is not None
    stub = touch(installation.backends / "python" / "triton_python_backend_stub")
    stub.write_bytes(b"\x7fELF libpython2.7.so.1.0")
    with pytest.raises(MissingPiece, match="no triton_python_backend_stub for it"):
        libraries.find_python_backend(installation)
