"""The etcd servers of most tests. A folder whose tests need another kind has a fixture of the same name."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from serving.local.etcd import EtcdCluster, EtcdOptions
from tests.support.etcd_server import OPTIONS, StartEtcd, running_etcd


@pytest.fixture(scope="session")
def shared_etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    """One server for every test that does not harm it and has keys of its own."""
    with running_etcd(tmp_path_factory.mktemp("etcd")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    """One for the tests of a module, which know of each other's keys and leave it running."""
    with running_etcd(tmp_path_factory.mktemp("etcd")) as cluster:
        yield cluster


@pytest.fixture
def own_etcd(tmp_path: Path) -> Iterator[StartEtcd]:
    """Starts servers that the test may stop, kill and wipe: `own_etcd()`, `own_etcd(options=...)`."""
    numbers = itertools.count()
    with ExitStack() as stack:

        def start(options: EtcdOptions = OPTIONS) -> EtcdCluster:
            return stack.enter_context(running_etcd(tmp_path / f"etcd{next(numbers)}", options))

        yield start
