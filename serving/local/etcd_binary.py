"""Which etcd program a local mesh starts, and whether it is new enough."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import Final

from serving.config import etcd_binary
from serving.errors import FailedPrecondition

MIN_VERSION: Final = (3, 4)  # 3.3 knows neither the flags of the log nor the v3 paths of the JSON gateway
_ADVICE: Final = (
    "install one of Debian 12 or Ubuntu 24.04 or newer (apt-get install etcd-server; Ubuntu 22.04 has 3.3), or unpack "
    "a release from https://github.com/etcd-io/etcd/releases and name it: export MESH_ETCD_BINARY=/path/to/etcd"
)
_ANSWER_S: Final = 20.0


def find_etcd() -> str:
    """Path of the etcd binary: $MESH_ETCD_BINARY, else from $PATH, else from /usr/bin.

    Raises `FailedPrecondition` that says what to install, also when the one that was found is too old.
    """
    path = _chosen() or shutil.which("etcd") or shutil.which("etcd", path="/usr/bin:/usr/local/bin:/usr/sbin")
    if path is None:
        raise FailedPrecondition("etcd was not found on $PATH or in /usr/bin; install it: apt-get install etcd-server")
    version = etcd_version(path)
    if tuple(int(part) for part in version.split(".")[:2]) < MIN_VERSION:
        wanted = ".".join(map(str, MIN_VERSION))
        raise FailedPrecondition(f"etcd {version} ({path}) is too old, {wanted} or newer is needed: {_ADVICE}")
    return path


def etcd_version(path: str) -> str:
    """What the program says of itself, such as `3.4.23`. Raises `FailedPrecondition` when it does not say it."""
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=_ANSWER_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FailedPrecondition(f"{path} cannot tell its version ({error}): {_ADVICE}") from error
    match = re.search(r"etcd Version: (\d+\.\d+\S*)", done.stdout)
    if match is None:
        said = (done.stdout or done.stderr).strip().splitlines()[:1]
        raise FailedPrecondition(f"{path} --version says {said or 'nothing'}, which is no etcd: {_ADVICE}")
    return match.group(1)


def _chosen() -> str | None:
    chosen = etcd_binary()
    if not chosen:
        return None
    if not os.access(chosen, os.X_OK):
        raise FailedPrecondition(
            f"$MESH_ETCD_BINARY is {chosen}, which is no program: correct it, or unset it and install etcd: "
            "apt-get install etcd-server"
        )
    return chosen
