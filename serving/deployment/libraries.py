"""Finds the libraries and programs that a C++ replica is made of. Nothing is imported or loaded to find them.

Each piece that is not there is a `MissingPiece`, which says what it is for, where it was looked for and what to do.
"""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from serving.deployment.elf import is_whole
from serving.errors import FailedPrecondition

INSTALLED_TRITON = Path("/opt/tritonserver")
OWN_LIBRARIES = Path(__file__).resolve().parents[1] / "_lib"
"""Where the build puts our own libraries: `serving/_lib`."""

PROXY_PROGRAM = OWN_LIBRARIES / "mesh_proxy"
"""The gRPC proxy as a program, for the mesh's edge."""

_SYSTEM_LIBRARY_FOLDERS = (Path("/usr/local/lib"), Path("/usr/lib"), Path("/lib"), Path("/usr/lib64"))


class MissingPiece(FailedPrecondition):
    """A library or program is not there. `piece` names it, `remedy` says what to do about it."""

    def __init__(self, piece: str, problem: str, remedy: str) -> None:
        super().__init__(f"{piece}: {problem}; {remedy}")
        self.piece = piece
        self.problem = problem
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Triton:
    """One installation. `search_path`: folders of the library's own dependencies, for LD_LIBRARY_PATH. `backends` and
    `caches`: folders of its backends and response caches, None where it has none.
    """

    library: Path
    search_path: tuple[Path, ...]
    backends: Path | None
    caches: Path | None
    origin: str


@dataclass(frozen=True, slots=True)
class PythonBackend:
    """Triton's Python backend with the stub that runs this very interpreter.

    `interpreter_folder` holds `python3` (of the virtual environment, where there is one); `libpython_folder` is where
    the stub finds the interpreter's shared library, None when the system finds it by itself.
    """

    library: Path
    utilities: Path
    stub: Path
    interpreter_folder: Path
    libpython_folder: Path | None


@dataclass(frozen=True, slots=True)
class RayCpp:
    """Ray's C++ part."""

    library_folder: Path
    default_worker: Path


def find_triton(setting: str = "") -> Triton:
    """Triton's server library: `setting` (a library or the root of an installation), else /opt/tritonserver, else the
    Python package pytriton. Raises: MissingPiece.
    """
    piece = "Triton's server library"
    if setting:
        found = _triton_at(Path(setting), "setting")
        if found is None:
            raise MissingPiece(
                piece, f"{setting} is not there or holds no lib/libtritonserver.so", "correct the setting"
            )
        return found
    found = _triton_at(INSTALLED_TRITON, str(INSTALLED_TRITON)) or _triton_of_wheel()
    if found is None:
        raise MissingPiece(
            piece,
            f"neither {INSTALLED_TRITON}/lib/libtritonserver.so nor the Python package nvidia-pytriton is there",
            "pip install nvidia-pytriton==0.7.0",
        )
    return found


def find_python_backend(triton: Triton) -> PythonBackend:
    """The Python backend of `triton` for the running interpreter. Raises: MissingPiece."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    piece = f"Triton's Python backend for Python {version}"
    folder = triton.backends / "python" if triton.backends is not None else None
    library = folder / "libtriton_python.so" if folder is not None else None
    if folder is None or library is None or not library.is_file():
        raise MissingPiece(piece, f"the Triton of {triton.origin} has no Python backend", "install one that has it")
    stub = _stub_for(folder, version)
    if stub is None:
        raise MissingPiece(
            piece, f"no triton_python_backend_stub for it near {folder}", "use a Python that the wheel has a stub for"
        )
    return PythonBackend(
        library=library,
        utilities=folder / "triton_python_backend_utils.py",
        stub=stub,
        interpreter_folder=Path(sys.executable).parent,
        libpython_folder=_libpython_folder(piece, version),
    )


def find_openvino_backend(own_libraries: Path = OWN_LIBRARIES) -> Path:
    """Our `libtriton_openvino.so`. Raises: MissingPiece, also when OpenVINO itself is not installed."""
    library = own_libraries / "backends" / "openvino" / "libtriton_openvino.so"
    _require(library, "the OpenVINO backend", "build it: `make setup`, or `pip install .`")
    find_openvino()
    return library


def find_deployment_backend(own_libraries: Path = OWN_LIBRARIES) -> Path | None:
    """Our `libtriton_deployment.so`, through which replicas run C++ deployments; None where it was not built."""
    library = own_libraries / "backends" / "deployment" / "libtriton_deployment.so"
    return library if library.is_file() else None


def find_openvino() -> Path:
    """The folder of the Python package openvino, whose `libs` the backend needs. Raises: MissingPiece."""
    folder = _package_folder("openvino")
    if folder is None or not (folder / "libs").is_dir():
        raise MissingPiece("OpenVINO", "the Python package openvino is not there", "pip install openvino")
    return folder


def find_actor_library(own_libraries: Path = OWN_LIBRARIES) -> Path:
    """Our Ray actor, `libmesh_actor.so`. Raises: MissingPiece."""
    return check_actor_library(own_libraries / "libmesh_actor.so")


def check_actor_library(library: Path) -> Path:
    """`library`, if it is there and whole. Raises: MissingPiece."""
    piece, remedy = "the C++ deployment actor", "build it: `make setup`, or `pip install .`"
    _require(library, piece, remedy)
    if not is_whole(library):
        raise MissingPiece(piece, f"{library} is damaged or only half-written", f"remove it, then {remedy}")
    return library


def find_ray_cpp() -> RayCpp:
    """Ray's C++ worker and the folder of its libraries. Raises: MissingPiece."""
    folder = _package_folder("ray")
    remedy = "pip install 'ray[default,cpp]'"
    if folder is None:
        raise MissingPiece("Ray", "the Python package ray is not there", remedy)
    library = _require(folder / "cpp" / "lib" / "libray_api.so", "Ray's C++ library", remedy)
    worker = _require(folder / "cpp" / "default_worker", "Ray's C++ worker", remedy)
    return RayCpp(library_folder=library.parent, default_worker=worker)


def replica_library_path(triton: Triton, ray: RayCpp) -> str:
    """LD_LIBRARY_PATH for the runtime environment of a C++ replica. It replaces the worker's own, so Ray is in it."""
    return ":".join(str(folder) for folder in (ray.library_folder, *triton.search_path))


@dataclass(frozen=True, slots=True)
class Finding:
    """One line for `mesh doctor`: where the piece is, or the problem with its remedy."""

    piece: str
    path: Path | None
    problem: str
    remedy: str


def survey(triton_setting: str = "", own_libraries: Path = OWN_LIBRARIES) -> list[Finding]:
    """Looks for every piece and reports on each; raises nothing."""
    searches: list[tuple[str, Callable[[], Path]]] = [
        ("Triton's server library", lambda: find_triton(triton_setting).library),
        ("Triton's Python backend", lambda: find_python_backend(find_triton(triton_setting)).stub),
        ("OpenVINO", find_openvino),
        ("the OpenVINO backend", lambda: find_openvino_backend(own_libraries)),
        ("Ray's C++ worker", lambda: find_ray_cpp().default_worker),
        ("the C++ deployment actor", lambda: find_actor_library(own_libraries)),
    ]
    findings = []
    for piece, search in searches:
        try:
            findings.append(Finding(piece, search(), "", ""))
        except MissingPiece as missing:
            findings.append(Finding(piece, None, missing.problem, missing.remedy))
    return findings


def _triton_at(place: Path, origin: str) -> Triton | None:
    library = place if place.is_file() else place / "lib" / "libtritonserver.so"
    if not library.is_file():
        return None
    wheel = _triton_of_wheel()
    if wheel is not None and library.resolve() == wheel.library.resolve():
        return wheel
    root = library.parent.parent
    return Triton(library, (library.parent,), _folder(root / "backends"), _folder(root / "caches"), origin)


def _triton_of_wheel() -> Triton | None:
    folder = _package_folder("pytriton")
    if folder is None:
        return None
    libraries = folder.parent / "nvidia_pytriton.libs"
    found = sorted(libraries.glob("libtritonserver-*.so"))
    if not found:
        return None
    root = folder / "tritonserver"
    origin = "the Python package nvidia-pytriton"
    return Triton(found[0], (libraries,), root / "backends", _folder(root / "caches"), origin)


def _folder(path: Path) -> Path | None:
    return path if path.is_dir() else None


def _stub_for(folder: Path, version: str) -> Path | None:
    name = "triton_python_backend_stub"
    in_wheel = folder.parent.parent / "python_backend_stubs" / version / name
    if in_wheel.is_file():
        return in_wheel
    beside = folder / name
    wanted = f"libpython{version}.so".encode()
    return beside if beside.is_file() and wanted in beside.read_bytes() else None


def _libpython_folder(piece: str, version: str) -> Path | None:
    name = f"libpython{version}.so.1.0"
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    folder = Path(sysconfig.get_config_var("LIBDIR") or sys.base_prefix)
    if (folder / name).is_file():
        return folder
    for place in _SYSTEM_LIBRARY_FOLDERS:
        if (place / name).is_file() or (multiarch and (place / multiarch / name).is_file()):
            return None
    raise MissingPiece(
        piece, f"{name} is in neither {folder} nor the system's folders", f"apt-get install libpython{version}"
    )


def _package_folder(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def _require(path: Path, piece: str, remedy: str) -> Path:
    if not path.is_file():
        raise MissingPiece(piece, f"{path} is not there", remedy)
    return path
