"""Composes the folder in which Triton looks for its backends, out of links to where they really are.

    <node cache>/backends/<hash>/nvidia_pytriton.libs      → what Triton's Python backend needs
    <node cache>/backends/<hash>/openvino                  → what our OpenVINO backend needs
    <node cache>/backends/<hash>/triton/lib/backends/      the backend directory: openvino/ onnxruntime/ python/ ...

The libraries look for their dependencies relative to where they are loaded from (four folders up), hence the depth. The
hash is over the plan, so replicas of one node share a folder, and a folder never changes once it is there.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from serving.deployment.file_lock import file_lock
from serving.deployment.libraries import PythonBackend, Triton
from serving.errors import InvalidArgument, ResourceExhausted

_BACKENDS = "triton/lib/backends"
_PARTIAL_SUFFIX = ".part"


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link to an absolute path."""

    target: Path


@dataclass(frozen=True, slots=True)
class Script:
    """An executable file with this text."""

    text: str


Plan = Mapping[str, Link | Script]
"""What to create, by path relative to the folder `<hash>`."""


def plan(
    triton: Triton,
    *,
    openvino_library: Path | None,
    openvino_package: Path | None,
    python_backend: PythonBackend | None,
    deployment_library: Path | None = None,
    extra_directories: Sequence[Path] = (),
) -> Plan:
    """What the composed folder shall hold. Later directories of `extra_directories` overrule earlier ones and ours.

    Models with `model.onnx` and no configuration are given to a backend named `onnxruntime` by Triton itself; where no
    real one is there, ours answers to that name too.

    Raises: InvalidArgument for an extra directory that is none.
    """
    backends: dict[str, dict[str, Link | Script] | Link] = {}
    if triton.backends is not None:
        backends.update({name: Link(folder) for name, folder in _backends_in(triton.backends.absolute()).items()})
        backends.pop("python", None)
    if openvino_library is not None:
        backends["openvino"] = {openvino_library.name: Link(openvino_library.absolute())}
        backends.setdefault("onnxruntime", {"libtriton_onnxruntime.so": Link(openvino_library.absolute())})
    if deployment_library is not None:
        backends["deployment"] = {deployment_library.name: Link(deployment_library.absolute())}
    if python_backend is not None:
        backends["python"] = _python_files(python_backend)
    for directory in extra_directories:
        if not directory.is_dir():
            raise InvalidArgument(f"backend directory {directory} does not exist")
        backends.update({name: Link(folder) for name, folder in _backends_in(directory.absolute()).items()})

    result: dict[str, Link | Script] = {}
    for folder in triton.search_path:
        result[folder.name] = Link(folder.absolute())
    if openvino_package is not None:
        result["openvino"] = Link(openvino_package.absolute())
    for name, content in backends.items():
        if isinstance(content, Link):
            result[f"{_BACKENDS}/{name}"] = content
        else:
            result.update({f"{_BACKENDS}/{name}/{file}": item for file, item in content.items()})
    return result


def compose(cache_dir: Path, wanted: Plan) -> Path:
    """Makes the folder for a plan, unless it is there, and returns the backend directory in it.

    Atomic: a killed process leaves nothing that is taken for complete. Raises: ResourceExhausted for a full disk.
    """
    root = cache_dir / "backends"
    place = root / _hash(wanted)
    backends = place / _BACKENDS
    if backends.is_dir():
        return backends
    try:
        root.mkdir(parents=True, exist_ok=True)
        with file_lock(root / ".lock"):
            for leftover in root.glob(f"*{_PARTIAL_SUFFIX}"):  # only the holder of the lock makes these
                shutil.rmtree(leftover)
            if not backends.is_dir():
                partial = place.with_name(place.name + _PARTIAL_SUFFIX)
                _create(partial, wanted)
                partial.replace(place)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceExhausted(f"the disk of {root} is full") from error
        raise InvalidArgument(f"backends cannot be composed in {root}: {error.strerror or error}") from error
    return backends


def _backends_in(directory: Path) -> dict[str, Path]:
    found = {}
    for folder in sorted(directory.iterdir()):
        if (folder / f"libtriton_{folder.name}.so").is_file() or (folder / "model.py").is_file():
            found[folder.name] = folder
    return found


def _python_files(backend: PythonBackend) -> dict[str, Link | Script]:
    return {
        backend.library.name: Link(backend.library),
        backend.utilities.name: Link(backend.utilities),
        backend.stub.name: Script(_stub_script(backend)),
    }


def _stub_script(backend: PythonBackend) -> str:
    """Starts the stub so that the interpreter in it is ours: it takes the first `python3` of PATH for its own."""
    lines = ["#!/bin/sh", f'PATH={shlex.quote(str(backend.interpreter_folder))}:"$PATH"']
    if backend.libpython_folder is not None:
        folder = shlex.quote(str(backend.libpython_folder))
        lines.append(f'LD_LIBRARY_PATH={folder}"${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}"')
    lines += ["export PATH LD_LIBRARY_PATH", "unset PYTHONHOME", f'exec {shlex.quote(str(backend.stub))} "$@"']
    return "\n".join(lines) + "\n"


def _hash(wanted: Plan) -> str:
    digest = hashlib.sha256()
    for path, item in sorted(wanted.items()):
        content = str(item.target) if isinstance(item, Link) else item.text
        digest.update(f"{path}\0{type(item).__name__}\0{content}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()[:32]


def _create(place: Path, wanted: Plan) -> None:
    (place / _BACKENDS).mkdir(parents=True)
    with contextlib.ExitStack() as undo:
        undo.callback(shutil.rmtree, place)
        for path, item in wanted.items():
            target = place / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(item, Link):
                target.symlink_to(item.target)
            else:
                target.write_text(item.text)
                target.chmod(0o755)
        undo.pop_all()
