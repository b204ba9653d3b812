"""The Ray actor around a Python replica. Its methods have the names of C++ actors', so that a master calls all alike.

Importable by name and plain Python: in a job that loads a C++ library, Ray does not ship classes, it imports them.
"""

from __future__ import annotations

import logging
import math
import os
import signal
from typing import Final

from serving._proto import records_pb2 as pb
from serving.errors import DataLoss
from serving.python_deployment.failure import described
from serving.python_deployment.replica import Replica
from serving.python_deployment.settings import DEFAULT_DRAIN_S, read_config
from serving.store.records import decode, encode

_LOG: Final = logging.getLogger(__name__)
_TERMINATED: Final = 128 + signal.SIGTERM  # exit status, as shells show it


class PythonActor:
    """Detached and named. Each method answers at once with a `ReplicaReport` in canonical JSON, but for `Stop`.

    SIGTERM drains the replica and then ends the process; a second one ends it at once.
    """

    def __init__(self, config_json: str) -> None:
        self._replica: Replica | None = None
        self._broken = ""
        self._terminations = 0
        try:
            self._start(config_json)
        except Exception as error:  # noqa: BLE001 - an exception here would be a death without a reason
            self._broken = f"the replica cannot start: {described(error)}"
            _LOG.exception("replica cannot start")

    def Status(self) -> str:  # noqa: N802
        return self._report()

    def Drain(self, limit_s: float) -> str:  # noqa: N802
        """Returns at once; `Status` follows it."""
        if self._replica is not None:
            self._replica.drain(limit_s if math.isfinite(limit_s) else 0.0)
        return self._report()

    def Update(self, update_json: str) -> str:  # noqa: N802
        """Takes a `ReplicaUpdate`. Returns at once; `Status` follows it."""
        if self._replica is None:
            return self._report()
        try:
            update = decode(pb.ReplicaUpdate, update_json.encode())
        except DataLoss as error:
            return self._report(f"this is no ReplicaUpdate: {error.message}")
        return self._report(self._replica.update(update))

    def Stop(self) -> str:  # noqa: N802
        """Leaves discovery and ends everything; returns when that is done."""
        if self._replica is not None:
            self._replica.stop()
        return self._report()

    def _start(self, config_json: str) -> None:
        import ray.util

        config = self._read(config_json)
        self._drain_timeout_s = config.drain_timeout_s or DEFAULT_DRAIN_S
        self._replica = self._made(config, str(ray.util.get_node_ip_address()))
        signal.signal(signal.SIGTERM, self._on_signal)
        self._replica.start()

    def _read(self, config_json: str) -> pb.ReplicaConfig:
        return read_config(config_json)

    def _made(self, config: pb.ReplicaConfig, node_address: str) -> Replica:
        return Replica(config, node_address=node_address, on_drained=self._end_if_terminated)

    def _on_signal(self, _number: int, _frame: object) -> None:
        self._terminations += 1
        replica = self._replica
        if replica is None or self._terminations > 1 or replica.drained:
            self._end_process()
        else:
            replica.drain(self._drain_timeout_s)

    def _end_if_terminated(self) -> None:
        if self._terminations:
            self._end_process()

    @staticmethod
    def _end_process() -> None:
        logging.shutdown()
        os._exit(_TERMINATED)

    def _report(self, refused: str = "") -> str:
        if self._replica is not None:
            return self._replica.report(refused)
        return encode(pb.ReplicaReport(state="failed", reason=self._broken, pid=os.getpid())).decode()
