"""OpenVINO for Python without its telemetry, which forks the process and sends a report whenever it is imported."""

from __future__ import annotations

import sys


def without_telemetry() -> None:
    """To be called before the first `import openvino`. Nothing of the user's settings is changed.

    OpenVINO takes its own stub where the package `openvino_telemetry` cannot be imported. The switch that its
    manual names (`opt_in_out --opt_out`) would write a file into the user's home instead.
    """
    if "openvino_telemetry" not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment] # how Python spells "not to be imported"
