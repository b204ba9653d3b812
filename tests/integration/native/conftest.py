from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.integration.ingress.kserve_models import write_repository
from tests.integration.ingress.kserve_servers import TRITON_LIBRARIES, build_folder, compose_backends

ROOT = Path(__file__).resolve().parents[3]


def _extension() -> Path:
    """The built module: in the package, or in the output folder of a build of its own."""
    for folder in (build_folder() / "out", ROOT / "serving"):
        for found in sorted(folder.glob("_native.*.so")):
            if f"cpython-{sys.version_info.major}{sys.version_info.minor}-" in found.name:
                return found
    pytest.fail("serving/_native.*.so is missing; run `make setup`, or set MESH_BUILD_DIR")


@pytest.fixture(scope="session")
def native() -> ModuleType:
    spec = importlib.util.spec_from_file_location("serving._native", _extension())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What every TritonServer of these tests is started with."""
    folder = tmp_path_factory.mktemp("native")
    return {
        "library": str(TRITON_LIBRARIES),
        "repository": str(write_repository(folder / "models")),
        "backend_directory": str(compose_backends(folder / "backends")),
        "log_file": str(folder / "triton.log"),
    }


MODELS = ["fixed", "two", "slow", "gated", "decoupled", "rich"]
MODELS += [f"id_{name}" for name in ("string", "bf16", "uint16", "fp16")]
MODELS += [
    f"id_{name}" for name in ("bool", "uint8", "uint32", "uint64", "int8", "int16", "int32", "int64", "fp32", "fp64")
]


@pytest.fixture(scope="session")
def triton(native: ModuleType, places: dict[str, str]) -> Iterator[object]:
    with native.TritonServer(**places, models=MODELS) as server:
        assert server.load_errors == {}
        yield server
