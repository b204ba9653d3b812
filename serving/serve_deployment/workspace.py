"""The one folder that all processes of a Ray Serve application have as working directory: code and packages.

    <cache>/serve/<process>/    where there are packages: links to both, which Ray packs and sends to its nodes

Without packages it is the unpacked code itself.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from serving._proto import records_pb2 as pb
from serving.errors import Unavailable
from serving.process_id import ProcessId
from serving.python_deployment import environment


def prepare(config: pb.ReplicaConfig) -> Path | None:
    """Fetches the code and installs the packages. Blocking, may take minutes; None where the spec names neither.

    `config` as for a Python deployment, which says what is raised.
    """
    folders = environment.prepare(config)
    if not folders:
        return None
    if not config.python.runtime_env.pip:
        return folders[0]
    root = Path(config.cache_dir) / "serve"
    place = root / str(ProcessId.of(os.getpid()))
    try:
        root.mkdir(parents=True, exist_ok=True)
        _remove_left(root)
        for folder in reversed(folders):  # code is put over packages
            shutil.copytree(folder, place, copy_function=_link, dirs_exist_ok=True)
    except (OSError, shutil.Error) as error:
        raise Unavailable(f"{place} cannot be written: {error}") from error
    return place


def remove(place: Path, config: pb.ReplicaConfig) -> None:
    """What `prepare` made, unless it is the unpacked code."""
    if place.parent == Path(config.cache_dir) / "serve":
        shutil.rmtree(place, ignore_errors=True)


def _link(source: str, target: str) -> None:
    """Without a second copy, where the file system has links."""
    Path(target).unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _remove_left(root: Path) -> None:
    """Of processes that died."""
    for entry in list(root.iterdir()):
        owner = ProcessId.parse(entry.name)
        if owner is None or not owner.alive():
            shutil.rmtree(entry, ignore_errors=True)
