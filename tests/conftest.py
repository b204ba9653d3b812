"""What holds for all tests."""

from __future__ import annotations

from examples.openvino_quietly import without_telemetry

without_telemetry()
