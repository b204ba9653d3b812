"""Keeps the log files of a local mesh small: one that has grown too large is copied to `<name>.1` and emptied.

Emptied in place, because several writers append to one file (a replica and the Triton in it, a keeper and whatever it
prints when it dies) and none of them would follow a renamed one. All open their files for appending, so they go on at
the new end. What is written between copy and cut, less than a moment, is lost.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

MAX_LOG_BYTES: Final = 64 << 20
CHECK_S: Final = 10.0
_log = logging.getLogger(__name__)


def log_files(mesh_dir: Path) -> Iterator[Path]:
    """Every log that a process of a local mesh appends to: keepers, agents, masters, replicas, etcd, Ray's heads."""
    for folder in ("logs", "etcd"):
        yield from (mesh_dir / folder).rglob("*.log")
    yield from (mesh_dir / "ray").glob("*/ray.log")


def bound_logs(mesh_dir: Path, max_bytes: int = MAX_LOG_BYTES) -> None:
    """One look. A file that cannot be copied (a full disk) is emptied all the same, for it would only get worse."""
    for path in log_files(mesh_dir):
        try:
            if path.stat().st_size > max_bytes:
                _cut(path)
        except FileNotFoundError:
            continue  # removed meanwhile
        except OSError as error:
            _log.error("a log cannot be cut", extra={"log_file": str(path), "error": str(error)})


def _cut(path: Path) -> None:
    old = path.with_name(f"{path.name}.1")
    try:
        shutil.copyfile(path, old)
        os.chmod(old, path.stat().st_mode & 0o777)
    except OSError as error:
        _log.error("a log is emptied without a copy", extra={"log_file": str(path), "error": str(error)})
        old.unlink(missing_ok=True)
    os.truncate(path, 0)
