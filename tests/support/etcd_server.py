"""Real etcd servers, which end with whoever started them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeAlias

from serving.local.etcd import EtcdCluster, EtcdOptions, start_etcd

StartEtcd: TypeAlias = Callable[..., EtcdCluster]
OPTIONS: Final = EtcdOptions(die_with_parent=True)


@contextmanager
def running_etcd(folder: Path, options: EtcdOptions = OPTIONS) -> Iterator[EtcdCluster]:
    """One that answers, and is gone afterwards."""
    cluster = start_etcd(folder, options=options)
    try:
        yield cluster
    finally:
        cluster.kill()
