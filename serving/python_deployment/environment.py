"""What must be there before a user's class is imported: its code, and the packages that it asks for.

    <cache>/artifacts/...                       the code, shared with models (serving/deployment/artifact_cache.py)
    <cache>/python/<key>/                       packages, as `pip install --target` writes them
    <cache>/python/.users/<key>/<process>       one per process that uses them
    <cache>/python/.locks/<key>                 held while they are installed or removed
    <cache>/python/.partial.<process>.<any>     packages that this process installs
    <cache>/python/.grave.<process>.<any>       packages that this process removes

The packages stand before all others in `sys.path`, so pip is told the versions of what the mesh itself needs there.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import logging
import os
import secrets
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from serving._proto import records_pb2 as pb
from serving.deployment.artifact_cache import ArtifactCache
from serving.deployment.file_lock import file_lock, try_file_lock
from serving.errors import FailedPrecondition, Unavailable
from serving.process_id import ProcessId

_LOG: Final = logging.getLogger(__name__)
_PINNED: Final = ("numpy", "protobuf", "grpcio", "tritonclient", "prometheus-client", "ray", "psutil", "fsspec")
_CONFLICT: Final = "The conflict is caused by:"
_PIP_TIMEOUT_S: Final = 1800.0
_KEEP_UNUSED_S: Final = 24 * 3600.0


def prepare(config: pb.ReplicaConfig) -> tuple[Path, ...]:
    """The folders that belong at the front of `sys.path`, the code first. Blocking, may take minutes.

    Raises what `ArtifactCache.get` says of the code, and `FailedPrecondition` with pip's reason.
    """
    python = config.python
    folders: list[Path] = []
    if python.HasField("code"):
        folders.append(fetch_artifact(config, python.code))
    if python.runtime_env.pip:
        user = ProcessId.of(os.getpid())
        folders.append(_packages(Path(config.cache_dir) / "python", tuple(python.runtime_env.pip), user))
    return tuple(folders)


def fetch_artifact(config: pb.ReplicaConfig, artifact: pb.Artifact) -> Path:
    """The artifact's folder on this node, absolute, kept for as long as this process lives. Blocking, may take minutes.

    Raises what `ArtifactCache.get` says.
    """
    cache, user = ArtifactCache(Path(config.cache_dir)), ProcessId.of(os.getpid())
    return cache.get(artifact.uri, artifact.digest, artifact.size_bytes, user=user, now=time.time()).absolute()


def enter(folders: tuple[Path, ...]) -> None:
    """Makes modules of the folders importable; the first one, the code, becomes the working directory."""
    sys.dont_write_bytecode = True  # the code is shared by all replicas of the node, and never changes
    sys.path[:0] = [str(folder) for folder in folders]
    importlib.invalidate_caches()


def _packages(root: Path, requirements: tuple[str, ...], user: ProcessId) -> Path:
    pins = _pins()
    pip = [f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith("PIP_")]  # its options
    text = "\n".join([sys.version, *pins, *pip, *requirements])
    key = hashlib.sha256(text.encode()).hexdigest()[:32]
    place = root / key
    try:
        (root / ".locks").mkdir(parents=True, exist_ok=True)
        with file_lock(root / ".locks" / key):
            users = root / ".users" / key
            users.mkdir(parents=True, exist_ok=True)
            (users / str(user)).touch()
            _forget_dead_users(users)
            if not place.is_dir():
                _install(place, root / f".partial.{user}.{secrets.token_hex(4)}", requirements, pins)
    except OSError as error:
        raise Unavailable(f"the cache of packages {root} cannot be used: {error.strerror or error}") from error
    _tidy(root, key, user)
    return place.absolute()


def _install(place: Path, partial: Path, requirements: tuple[str, ...], pins: list[str]) -> None:
    constraints = partial.with_name(f"{partial.name}.constraints")
    constraints.write_text("\n".join(pins))
    command = [sys.executable, "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
    command += ["--target", str(partial), "--constraint", str(constraints), "--", *requirements]
    _LOG.info("installing packages", extra={"requirements": list(requirements)})
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PIP_TIMEOUT_S, check=False)
        if done.returncode != 0:
            raise FailedPrecondition(
                f"pip cannot install {', '.join(requirements)}: {_reason(done.stdout, done.stderr)}"
            )
        partial.replace(place)
    except subprocess.TimeoutExpired as error:
        raise FailedPrecondition(f"pip did not end within {_PIP_TIMEOUT_S:g} s") from error
    finally:
        constraints.unlink(missing_ok=True)
        shutil.rmtree(partial, ignore_errors=True)


def _reason(output: str, errors: str) -> str:
    """The first line that pip calls an error, else its last one; with the conflict that it found, if any."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    named = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    reason = (named or lines[-1:] or ["it says nothing"])[0]
    conflict = output.partition(_CONFLICT)[2].strip().partition("\n\n")[0]
    return f"{reason} {'; '.join(line.strip() for line in conflict.splitlines())}".strip()


def _pins() -> list[str]:
    found = []
    for name in _PINNED:
        try:
            found.append(f"{name}=={importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _tidy(root: Path, keep: str, user: ProcessId) -> None:
    """Removes what nobody needs, as far as it can: other processes tidy beside this one."""
    try:
        _remove_left(root)
        for users in list((root / ".users").iterdir()):
            if users.name != keep and _is_old(users):
                _remove_unused(root, users, user)
    except OSError as error:
        _LOG.warning("old packages not removed", extra={"error": str(error)})


def _remove_unused(root: Path, users: Path, user: ProcessId) -> None:
    """Packages that no living process has used for a day."""
    with try_file_lock(root / ".locks" / users.name) as locked:
        if not locked or not users.is_dir() or not _is_old(users) or any(_alive(entry) for entry in users.iterdir()):
            return
        place, grave = root / users.name, root / f".grave.{user}.{secrets.token_hex(4)}"
        if place.is_dir():
            place.rename(grave)  # at once: whoever dies while it removes leaves no half of them under their name
        shutil.rmtree(users, ignore_errors=True)
    shutil.rmtree(grave, ignore_errors=True)


def _remove_left(root: Path) -> None:
    """What processes that died were installing or removing."""
    for entry in list(root.iterdir()):
        kind, _, rest = entry.name.removeprefix(".").partition(".")
        owner = ProcessId.parse(rest.partition(".")[0])
        if kind not in ("partial", "grave") or (owner is not None and owner.alive()):
            continue
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


def _forget_dead_users(users: Path) -> None:
    """With the lock held."""
    for entry in list(users.iterdir()):
        if not _alive(entry):
            entry.unlink(missing_ok=True)


def _alive(user: Path) -> bool:
    owner = ProcessId.parse(user.name)
    return owner is not None and owner.alive()


def _is_old(users: Path) -> bool:
    return time.time() - users.stat().st_mtime >= _KEEP_UNUSED_S
