"""The records of one application that its master writes."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Final

from serving._proto import records_pb2 as pb
from serving.control import Clock
from serving.master.record_writer import RecordWriter
from serving.master.status import same_but_for_time
from serving.store import keys
from serving.store.client import EtcdClient
from serving.store.keys import AppKey

_HISTORY_S: Final = 600.0  # between two looks whether what forecasts are made of is still there


class MasterRecords:
    """`status` for people and keepers, `traffic` for clients and proxies, `history` for the master's own forecasts."""

    def __init__(
        self,
        client: EtcdClient,
        app: AppKey,
        generation: int,
        clock: Clock,
        *,
        heartbeat_s: float,
        on_written: Callable[[], None],
    ) -> None:
        """`on_written` is told when traffic or history was read or written: what is stored is acted upon."""
        self.status = RecordWriter(
            client,
            keys.status(app),
            generation,
            clock,
            pb.ApplicationStatus,
            heartbeat_s=heartbeat_s,
            same=same_but_for_time,
            refresh=True,
        )
        self.traffic = RecordWriter(
            client,
            keys.traffic(app),
            generation,
            clock,
            pb.TrafficRecord,
            heartbeat_s=heartbeat_s,
            on_written=on_written,
        )
        self.history = RecordWriter(
            client, keys.load(app), generation, clock, pb.LoadHistory, heartbeat_s=_HISTORY_S, on_written=on_written
        )

    def running(self) -> tuple[Coroutine[Any, Any, None], ...]:
        return self.status.run(), self.traffic.run(), self.history.run()

    def write_again(self) -> None:
        """The store was replaced."""
        for writer in (self.status, self.traffic, self.history):
            writer.write_again()

    async def delete(self) -> None:
        """When nothing runs any more; the status last. What was learned of the load stays for the next cluster."""
        await self.traffic.delete()
        await self.status.delete()
