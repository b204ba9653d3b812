"""Batches through a real gateway, a runner that is a Ray actor, and a real replica; no keeper, no master."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.batch_world import BatchWorld


@pytest.fixture(scope="package")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BatchWorld]:
    with ExitStack() as stack:
        yield BatchWorld(tmp_path_factory.mktemp("batches"), stack)
