"""`scripts/gpu-check` where there is no GPU: one clear line, and success."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "gpu-check"


def test_without_a_gpu_it_skips_with_a_clear_line() -> None:
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([str(SCRIPT)], capture_output=True, text=True, env=hidden, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("gpu-check: skipped: no NVIDIA GPU here")
    assert len(done.stdout.splitlines()) == 1
