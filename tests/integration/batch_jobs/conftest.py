from __future__ import annotations

from collections.abc import Iterator

import pytest

from serving.local.ray_cluster import RayCluster, start_ray_cluster
from tests.integration.batch_jobs.world import OPTIONS


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    cluster = start_ray_cluster("jobs", tmp_path_factory.mktemp("ray"), options=OPTIONS)
    yield cluster
    cluster.stop()
