"""Servers of one test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.redis_server import LoneRedis


@pytest.fixture
def own(tmp_path: Path) -> Iterator[LoneRedis]:
    """A server that the test may ruin."""
    with LoneRedis(tmp_path / "redis") as made:
        yield made
