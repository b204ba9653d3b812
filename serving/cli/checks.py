"""The checks of `mesh doctor`. Each looks at one thing, changes nothing, and raises nothing."""

from __future__ import annotations

import ctypes.util
import os
import platform
import re
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, requires
from importlib.metadata import version as installed_version
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from serving.cli.check import FAILED, OK, WARNING, Check
from serving.cli.version import versions

MIN_PYTHON: Final = (3, 10)
MAX_PYTHON: Final = (3, 12)
PYTHON_ADVICE: Final = (
    "install Python 3.12, for example with uv (`uv python install 3.12`), then from the source tree: "
    '`rm -rf .venv && MESH_PYTHON="$(uv python find 3.12)" make setup`'
)
MIN_MEMORY_GIB: Final = 4.0
MIN_DISK_GIB: Final = 5.0
MIN_OPEN_FILES: Final = 4096
LIBRARIES: Final = {"nghttp2": "libnghttp2-14", "ssl": "libssl3", "crypto": "libssl3", "z": "zlib1g"}
RUNTIME: Final = Path(__file__).resolve().parents[2] / "requirements" / "runtime.txt"
_GIB: Final = 1 << 30


def run_all(mesh_dir: Path, say: Callable[[str], None], config: Path | None = None) -> list[Check]:
    """Every check, in the order in which they build on each other; with `config` also what that `mesh.yaml` names."""
    groups: list[tuple[str, Callable[[], Iterator[Check]]]] = [
        ("the machine", lambda: machine(mesh_dir)),
        ("Python packages", packages),
        ("pinned versions", pins),
        ("system libraries", system_libraries),
        ("etcd", etcd),
        ("the parts of a replica", replica_parts),
        ("the built extension", extension),
        ("ports", ports),
        ("the mesh", lambda: mesh(mesh_dir)),
    ]
    if config is not None:
        from serving.cli.mesh_file_checks import mesh_file

        groups = [group for group in groups if group[1] is not etcd]  # there is one already
        groups.append(("what mesh.yaml names", lambda: mesh_file(config)))
    found: list[Check] = []
    for name, group in groups:
        say(f"checking {name}")
        try:
            found.extend(group())
        except Exception as error:  # noqa: BLE001 - a check that breaks must not hide the others
            text = f"the check itself failed: {type(error).__name__}: {error}"
            found.append(Check(name, WARNING, text, "report this with the output of `mesh doctor --json`"))
    return found


def machine(mesh_dir: Path) -> Iterator[Check]:
    """Operating system, cores, memory, disk, limits, GPUs."""
    system = f"{platform.system()} {platform.machine()}, {_os_name()}"
    supported = platform.system() == "Linux" and platform.machine() == "x86_64"
    yield Check("machine", OK if supported else WARNING, system, "" if supported else "tried on Linux x86_64 only")
    version = platform.python_version()
    good = MIN_PYTHON <= sys.version_info[:2] <= MAX_PYTHON
    found = version if good else f"{version}, needed is 3.10, 3.11 or 3.12"
    yield Check("python", OK if good else FAILED, found, "" if good else PYTHON_ADVICE)
    cores = len(os.sched_getaffinity(0))
    advice = "" if cores >= 2 else "a local mesh starts slowly on one core"
    yield Check("cores", OK if cores >= 2 else WARNING, str(cores), advice)
    yield _memory()
    yield _disk(mesh_dir)
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = soft < MIN_OPEN_FILES
    advice = f"Ray wants more: ulimit -n {MIN_OPEN_FILES}" if few else ""
    yield Check("open files", WARNING if few else OK, str(soft), advice)
    yield _gpus()


def packages() -> Iterator[Check]:
    """The Python packages that are needed, and the stubs made from `proto/`."""
    found = versions()
    for name, module in (("ray", "ray"), ("triton", "pytriton"), ("openvino", "openvino"), ("grpc", "grpc")):
        version = found[name]
        missing = version == "-" and find_spec(module) is None
        yield Check(name, FAILED if missing else OK, version, "run `make setup`" if missing else "")
    stubs = find_spec("serving._proto.records_pb2") is not None
    advice = "" if stubs else "run `make setup` (it makes them from proto/)"
    yield Check("protocol stubs", OK if stubs else FAILED, "made" if stubs else "missing", advice)


def pins() -> Iterator[Check]:
    """Whether the installed packages are the versions that the mesh was tried with."""
    wanted = pinned()
    differ = []
    for name, version in sorted(wanted.items()):
        try:
            found = installed_version(name)
        except PackageNotFoundError:
            found = "not installed"
        if found != version:
            differ.append(f"{name} {version} is pinned, found {found}")
    advice = "install the pinned versions: `make setup`, or `pip install .` where the mesh was installed with pip"
    text = "; ".join(differ) or f"{len(wanted)} packages are as pinned"
    if not wanted:
        text, advice = "the pins are not known here", "run it from the source tree, or install the mesh with pip"
    yield Check(
        "pinned versions", OK if wanted and not differ else WARNING, text, "" if text.endswith("pinned") else advice
    )


def pinned() -> dict[str, str]:
    """Package → version, for this interpreter: of requirements/runtime.txt, or as the installed mesh says."""
    from packaging.requirements import Requirement

    if RUNTIME.is_file():
        lines = [line for line in RUNTIME.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    else:
        try:
            lines = requires("serving-mesh") or []
        except PackageNotFoundError:
            lines = []
    found = [Requirement(line) for line in lines]
    exact = [one for one in found if one.marker is None or one.marker.evaluate({"extra": ""})]
    return {
        one.name: next(iter(one.specifier)).version
        for one in exact
        if len(one.specifier) == 1 and next(iter(one.specifier)).operator == "=="
    }


def system_libraries() -> Iterator[Check]:
    """Shared libraries that the C++ part is linked with."""
    for name, package in LIBRARIES.items():
        found = ctypes.util.find_library(name)
        advice = "" if found else f"apt-get install {package}"
        yield Check(f"lib{name}", OK if found else FAILED, found or "missing", advice)


def etcd() -> Iterator[Check]:
    """The binary that `mesh up` starts."""
    from serving.errors import FailedPrecondition
    from serving.local.etcd_binary import etcd_version, find_etcd

    try:
        path = find_etcd()
        yield Check("etcd", OK, f"{etcd_version(path)} ({path})")
    except FailedPrecondition as error:
        advice = "see the message; not needed with `mesh up -f` and an etcd elsewhere"
        yield Check("etcd", FAILED, error.message, advice)


def replica_parts() -> Iterator[Check]:
    """Triton, its backends, Ray's C++ worker and our own libraries, and whether those find theirs."""
    from serving.deployment.libraries import survey

    for finding in survey():
        state = OK if finding.path else FAILED
        where = str(finding.path) if finding.path else finding.problem
        yield Check(finding.piece, state, where, finding.remedy)
        if finding.path is not None and finding.piece == "the C++ deployment actor":
            yield _links(finding.path)


def extension() -> Iterator[Check]:
    """`serving._native`, loaded in a process of its own."""
    code = "import serving._native as n; print(n.__file__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    if done.returncode == 0:
        yield Check("serving._native", OK, done.stdout.strip())
        return
    reason = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit status {done.returncode}"
    yield Check("serving._native", FAILED, reason, "build it with `make setup`; `mesh model check` needs it")


def ports() -> Iterator[Check]:
    """Whether processes can listen on loopback."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as one:
            one.bind(("127.0.0.1", 0))
            one.listen(1)
            with socket.create_connection(("127.0.0.1", one.getsockname()[1]), timeout=5):
                pass
        yield Check("loopback", OK, "listens and connects")
    except OSError as error:
        advice = "a mesh needs TCP on 127.0.0.1: look at firewall rules and sandboxes"
        yield Check("loopback", FAILED, str(error), advice)


def mesh(mesh_dir: Path) -> Iterator[Check]:
    """The folder of the local mesh, and the mesh in it."""
    from serving.errors import MeshError, NotFound
    from serving.local.state import load_state

    near = next(path for path in (mesh_dir, *mesh_dir.parents) if path.exists())
    if not os.access(near, os.W_OK | os.X_OK):
        yield Check("mesh folder", FAILED, f"{near} is not writable", "choose another folder with --dir or MESH_DIR")
        return
    try:
        state = load_state(mesh_dir)
    except NotFound:
        yield Check("mesh", OK, f"none runs in {mesh_dir}")
        return
    except MeshError as error:
        yield Check("mesh", WARNING, error.message, "see the message")
        return
    if state.running():
        dead = [item.name for item in state.processes if not item.identity.alive()]
        advice = f"not running now: {', '.join(dead)}; see {mesh_dir / 'logs'}" if dead else ""
        if any(item.role == "ray" for item in state.processes if item.name in dead):
            advice += "; a Ray cluster comes back with `mesh down` and `mesh up`"
        yield Check("mesh", WARNING if dead else OK, f"{state.phase} in {mesh_dir}", advice)
    else:
        advice = f"clean up with `mesh down --dir {mesh_dir}`, start again with `mesh up`"
        yield Check("mesh", WARNING, f"one in {mesh_dir} ended without cleaning up", advice)


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "unknown")
    except OSError:
        return "unknown"


def _memory() -> Check:
    pages, size = os.sysconf("SC_AVPHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    free, total = pages * size / _GIB, os.sysconf("SC_PHYS_PAGES") * size / _GIB
    available = _meminfo_available() or free
    few = available < MIN_MEMORY_GIB
    advice = "a Ray cluster takes about 1 GiB: start few, or free some memory" if few else ""
    return Check("memory", WARNING if few else OK, f"{available:.1f} of {total:.1f} GiB free", advice)


def _meminfo_available() -> float:
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return 0.0
    match = re.search(r"MemAvailable:\s+(\d+) kB", text)
    return int(match.group(1)) / (1 << 20) if match else 0.0


def _disk(mesh_dir: Path) -> Check:
    near = next(path for path in (mesh_dir, *mesh_dir.parents) if path.exists())
    free = shutil.disk_usage(near).free / _GIB
    few = free < MIN_DISK_GIB
    advice = "artifacts and logs need room: choose another folder with --dir or MESH_DIR" if few else ""
    return Check("disk", WARNING if few else OK, f"{free:.1f} GiB free in {near}", advice)


def _gpus() -> Check:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return Check("gpus", OK, "none (models run on CPUs)")
    query = [tool, "--query-gpu=name", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    names = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    if done.returncode or not names:
        return Check("gpus", WARNING, "nvidia-smi does not answer", "look at the driver with `nvidia-smi`")
    return Check("gpus", OK, ", ".join(names))


def _links(library: Path) -> Check:
    """Whether the dynamic linker finds everything that our actor needs, with Ray's and Triton's folders at hand."""
    from serving.deployment.libraries import MissingPiece, find_ray_cpp, find_triton, replica_library_path

    try:
        path = replica_library_path(find_triton(), find_ray_cpp())
    except MissingPiece as missing:
        return Check("links of the actor", FAILED, missing.problem, missing.remedy)
    environment = {**os.environ, "LD_LIBRARY_PATH": path}
    done = subprocess.run(
        ["ldd", str(library)], capture_output=True, text=True, env=environment, timeout=60, check=False
    )
    missing_names = re.findall(r"(\S+) => not found", done.stdout)
    if missing_names:
        advice = "install the packages of scripts/setup, then build again with `make setup`"
        return Check("links of the actor", FAILED, f"not found: {', '.join(missing_names)}", advice)
    return Check("links of the actor", OK, "all found")
