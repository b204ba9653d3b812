"""Loads a model repository in a process of its own: it needs another library path, and a bad model may end it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from serving.errors import DeadlineExceeded, FailedPrecondition, InvalidArgument, error_for_code

TAIL_LINES = 5
TAIL_BYTES = 16_384
T = TypeVar("T")


def check_repository(
    directory: Path, models: Sequence[str], say: Callable[[str], None], *, timeout_s: float = 300.0
) -> list[dict[str, Any]]:
    """One entry per model: `name`, `state`, `reason`, `versions`, `platform`, `inputs`, `outputs`, `config`.

    Raises `InvalidArgument` for a folder that is no repository, `FailedPrecondition` where a part of the mesh is
    missing, `DeadlineExceeded` with what was said last.
    """
    if not directory.is_dir():
        raise InvalidArgument(f"there is no folder {directory}")
    folders = sorted(path.name for path in directory.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not folders:
        raise InvalidArgument(f"{directory} holds no model folders; a repository is <folder>/<model>/<version>/<file>")
    for name in models:
        if name not in folders:
            raise InvalidArgument(f"{directory} has no model {name} (it has: {', '.join(folders)})")
    with tempfile.TemporaryDirectory(prefix="mesh-model-check-") as scratch:
        request, environment = _prepare(directory, models, Path(scratch))
        say(f"loading {', '.join(models) or f'{len(folders)} models'} of {directory}")
        return _probe(request, environment, timeout_s)


def _prepare(directory: Path, models: Sequence[str], scratch: Path) -> tuple[dict[str, Any], dict[str, str]]:
    from serving.deployment import backend_directory, libraries

    triton = libraries.find_triton()
    plan = backend_directory.plan(
        triton,
        openvino_library=_optional(libraries.find_openvino_backend),
        openvino_package=_optional(libraries.find_openvino),
        python_backend=_optional(lambda: libraries.find_python_backend(triton)),
        extra_directories=[],
    )
    request = {
        "repository": str(directory.resolve()),
        "models": list(models),
        "library": str(triton.library),
        "backend_directory": str(backend_directory.compose(scratch, plan)),
        "log_file": str(scratch / "triton.log"),
        "answer": str(scratch / "answer.json"),
    }
    paths = [str(path) for path in triton.search_path]
    if os.environ.get("LD_LIBRARY_PATH"):
        paths.append(os.environ["LD_LIBRARY_PATH"])
    return request, {**os.environ, "LD_LIBRARY_PATH": ":".join(paths)}


def _optional(find: Callable[[], T]) -> T | None:
    """None for a piece that is not there: a model that needs it is then answered with Triton's own words."""
    from serving.deployment.libraries import MissingPiece

    try:
        return find()
    except MissingPiece:
        return None


def _probe(request: dict[str, Any], environment: dict[str, str], timeout_s: float) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "serving.cli.model_probe", json.dumps(request)]
    log = Path(request["log_file"])
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise DeadlineExceeded(f"loading took longer than {timeout_s:g} s; it said last:\n{_tail(log)}") from error
    answer = Path(request["answer"])
    if not answer.exists():
        said = "\n".join([*done.stderr.strip().splitlines()[-TAIL_LINES:], _tail(log)])
        raise FailedPrecondition(f"loading ended the process with status {done.returncode}; it said last:\n{said}")
    found = json.loads(answer.read_text(encoding="utf-8"))
    if "error" in found:
        raise error_for_code(int(found["code"]), str(found["error"]))
    models: list[dict[str, Any]] = found["models"]
    return models


def _tail(log: Path) -> str:
    """The last lines of a log that may be long; "" when there is none."""
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL_BYTES))
        return "\n".join(file.read().decode("utf-8", "replace").splitlines()[-TAIL_LINES:])
