"""From an order to its job: with the record of its input, and with the mesh that answers."""

from __future__ import annotations

import asyncio
from concurrent.futures import TimeoutError as NotInTime
from typing import Final

from serving._proto import batch_pb2 as pb
from serving._proto import records_pb2
from serving.batch.runner import settings
from serving.batch.runner.batch_job import BatchJob, Sending
from serving.batch.sending.places import Discovered
from serving.batch.store.files import read_files
from serving.errors import StoreUnavailable
from serving.python_deployment import settings as common
from serving.store import keys
from serving.store.client import EtcdClient

_FIND_S: Final = 60.0


class JobMaker:
    """Belongs to the loop on which it is made; `store` is its owner's to close."""

    def __init__(self, config: records_pb2.ReplicaConfig, store: EtcdClient) -> None:
        self._store = store
        self._loop = asyncio.get_running_loop()
        mesh = Discovered(common.etcd_config(config.etcd), tls=common.serving_tls(config))
        self._sending = Sending(mesh, settings.workers(config))

    def make(self, order: pb.BatchOrder) -> BatchJob:
        """Raises `InvalidArgument`, `NotSupported` for a file store that is no folder."""
        return BatchJob(order, self._find_input, self._sending)

    def _find_input(self, namespace: str, file: str) -> pb.FileRecord | None:
        """Blocks; not to be called on the loop. Also one that has expired: the order came before. Raises
        `StoreUnavailable`."""
        found = asyncio.run_coroutine_threadsafe(self._store.get(keys.file(namespace, file)), self._loop)
        try:
            kv = found.result(_FIND_S)
        except NotInTime:
            found.cancel()
            raise StoreUnavailable(f"the record of {file} was not read within {_FIND_S:.0f} s") from None
        return None if kv is None else read_files([kv]).get(kv.key)
