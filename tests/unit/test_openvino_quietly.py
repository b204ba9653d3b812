"""The examples and tests use OpenVINO without telling anybody."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CODE = """
import sys
from examples.openvino_quietly import without_telemetry
without_telemetry()
import openvino
assert openvino.Core().available_devices
from openvino.tools.ovc import telemetry
print(type(telemetry).__module__)
"""


def test_openvino_takes_its_own_stub() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "openvino.tools.ovc.telemetry_stub"
