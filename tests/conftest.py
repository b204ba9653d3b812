"""What holds for all tests."""

from __future__ import annotations

import httpx._config
from hypothesis import HealthCheck, settings

from examples.openvino_quietly import without_telemetry

without_telemetry()

# The machine may be busy or stand still: time is no property of any example. This must stand above all folders, as the
# profile that is loaded when a module is collected is that of its tests.
settings.register_profile("loaded", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("loaded")

# An answer of `httpx` may take 5 s where a test says nothing else, and connecting, too.
for _step in ("connect", "read", "write", "pool"):
    setattr(httpx._config.DEFAULT_TIMEOUT_CONFIG, _step, 60.0)
