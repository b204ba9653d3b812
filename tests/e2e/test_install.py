"""`pip install` of the sources makes a package that works away from them.

It is built and run beside the packages of this environment, which are the pinned ones: nothing is downloaded. That pip
would get the same ones by itself is proved from what the package declares.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from serving.version import VERSION
from tests.support.mesh import DIGITS, ROOT

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]
USED_WHERE_AT_HAND = {"ml_dtypes"}
INSPECT = """
import json, keeper, serving, serving._native
from serving._proto import etcd_pb2, keeper_pb2, keeper_pb2_grpc, records_pb2
from serving.cli import main
modules = (keeper, serving, serving._native, etcd_pb2, keeper_pb2, keeper_pb2_grpc, records_pb2)
print(json.dumps([module.__file__ for module in modules]))
"""


def run(command: list[str], *, cwd: Path, **env: str) -> str:
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, timeout=3000, check=False
    )
    assert done.returncode == 0, f"{command} said\n{done.stdout[-6000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What pip made of a copy of the files that git knows, without anything that was built beside them."""
    folder = tmp_path_factory.mktemp("install")
    sources, target = folder / "sources", folder / "target"
    listed = run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT)
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():  # not what was removed and is not committed yet
            (sources / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, sources / name)
    pip = [sys.executable, "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
    options = ["--no-deps", "--no-build-isolation", "--target", str(target)]
    ccache = {"CCACHE_BASEDIR": str(sources), "CCACHE_NOHASHDIR": "1"}  # the folder is another one each time
    run([*pip, ".", *options], cwd=sources, MESH_BUILD_TYPE="RelWithDebInfo", **ccache)
    shutil.rmtree(sources)  # nothing installed may need them
    yield target
    shutil.rmtree(target)


def test_everything_is_there(installed: Path) -> None:
    package = installed / "serving"
    for name in ("backends/deployment/libtriton_deployment.so", "sdk/include/mesh/deployment.h"):
        assert (package / "_lib" / name).is_file()
    assert (package / "_lib/sdk/lib/cmake/ServingMesh/ServingMeshConfig.cmake").is_file()
    for name in (
        "_lib/libmesh_actor.so",
        "_lib/backends/openvino/libtriton_openvino.so",
        "py.typed",
        "_native.pyi",
        "_genai.pyi",
        "_prefix.pyi",
    ):
        assert (package / name).is_file(), f"{name} is missing in {sorted(map(str, package.rglob('*')))}"
    assert list(package.glob("_native.*.so"))
    assert list(package.glob("_genai.*.so"))
    assert list(package.glob("_prefix.*.so"))
    assert {path.name for path in (package / "_proto").glob("*_pb2.pyi")} == {
        "etcd_pb2.pyi",
        "keeper_pb2.pyi",
        "records_pb2.pyi",
    }
    assert not (installed / "tests").exists()


def test_it_is_imported_from_there(installed: Path, tmp_path: Path) -> None:
    # PYTHONPATH comes before the checkout that the developers' environment points to.
    said = run([sys.executable, "-c", INSPECT], cwd=tmp_path, PYTHONPATH=str(installed))
    files = [name for name in said.replace('"', " ").replace(",", " ").split() if name not in "[]"]
    assert len(files) == 7
    assert all(Path(name).is_relative_to(installed) for name in files), files


def test_the_command_works(installed: Path, tmp_path: Path) -> None:
    said = run([sys.executable, str(installed / "bin" / "mesh"), "--version"], cwd=tmp_path, PYTHONPATH=str(installed))
    assert VERSION in said


def test_the_native_part_works(installed: Path, tmp_path: Path) -> None:
    """The embedded Triton and the OpenVINO backend of the package load the example's model."""
    models = tmp_path / "models"
    shutil.copytree(DIGITS.parent / "models", models)
    command = [sys.executable, str(installed / "bin" / "mesh"), "model", "check", str(models)]
    assert "digits" in run(command, cwd=tmp_path, PYTHONPATH=str(installed))


def test_what_it_imports_is_declared_and_here(installed: Path) -> None:
    [distribution] = metadata.distributions(path=[str(installed)], name="serving-mesh")
    wanted = [Requirement(line) for line in distribution.requires or ()]
    always = [item for item in wanted if item.marker is None or item.marker.evaluate({"extra": ""})]
    for item in always:
        assert item.specifier.contains(metadata.version(item.name)), item
    declared = {canonicalize_name(item.name) for item in always}
    carries = metadata.packages_distributions()
    undeclared = {
        name
        for name in third_party(installed)
        if not declared & {canonicalize_name(package) for package in carries.get(name, [name])}
    }
    assert undeclared == USED_WHERE_AT_HAND


def third_party(installed: Path) -> set[str]:
    """The top-level names that the package's modules import and that are neither its own nor Python's."""
    names: set[str] = set()
    for path in (*installed.glob("serving/**/*.py"), *installed.glob("keeper/**/*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
    return names - set(sys.stdlib_module_names) - {"serving", "keeper"}
