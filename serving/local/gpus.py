"""How many NVIDIA GPUs this machine has for a local Ray cluster to hand out."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from collections.abc import Mapping
from typing import Final

_TIMEOUT_S: Final = 20.0
_HIDDEN: Final = ("", "-1", "NoDevFiles")  # values of CUDA_VISIBLE_DEVICES that leave none
_log = logging.getLogger(__name__)


def count_gpus(environment: Mapping[str, str] = os.environ) -> int:
    """As `nvidia-smi -L` lists them, at most those that CUDA_VISIBLE_DEVICES leaves; 0 without a driver."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in _HIDDEN:
        return 0
    tool = shutil.which("nvidia-smi", path=environment.get("PATH"))
    if tool is None:
        return 0
    try:
        done = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        _log.warning("nvidia-smi does not answer; no GPU is handed out", extra={"error": str(error)})
        return 0
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()
        _log.warning("nvidia-smi fails; no GPU is handed out", extra={"error": said})
        return 0
    found = sum(1 for line in done.stdout.splitlines() if line.startswith("GPU "))  # parts of one are indented
    return found if visible is None else min(found, len(visible.split(",")))
