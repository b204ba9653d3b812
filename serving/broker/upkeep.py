"""What a journal needs as time goes by: deadlines, leases, and room."""

from __future__ import annotations

from functools import partial
from typing import Final

from serving.broker import queries
from serving.broker.keeping import Keeping
from serving.broker.shard import Shard

_STALLED_S: Final = 2.0  # between two ticks
_SWEEP_S: Final = 1.0
_SWEPT: Final = 500  # rows of one slice: between two of them others write


class Upkeep:
    """`tick` is called several times a second."""

    def __init__(self, shard: Shard, keeping: Keeping) -> None:
        self._shard = shard
        self._keeping = keeping
        self._last_tick = shard.clock.monotonic()
        self._next_sweep = 0.0
        self._sweeping = False

    def tick(self) -> None:
        """Ends what is over; sweeps beside it."""
        monotonic = self._shard.clock.monotonic()
        passed = monotonic - self._last_tick
        self._last_tick = monotonic
        if passed > _STALLED_S:
            for running in self._shard.running.values():  # what replicas said meanwhile has yet to be read
                running.lease_until += passed
        self._shard.limits.measure(passed)
        self._shard.expire()
        if not self._sweeping and monotonic >= self._next_sweep:
            self._sweeping = True
            self._shard.spawn(self._sweep(), upkeep=True)

    async def _sweep(self) -> None:
        """One slice of what has been kept for long enough; the next one follows it while slices are full."""
        shard = self._shard
        self._next_sweep = shard.clock.monotonic() + _SWEEP_S
        try:
            found = await shard.journal.read(partial(queries.expired, now=shard.clock.now(), limit=_SWEPT))
        except BaseException:
            self._sweeping = False
            raise
        free = [item for item in found if item.number not in shard.claimed]
        if len(found) == _SWEPT:
            self._next_sweep = 0.0
        self._keeping.remove(free, self._swept)

    def _swept(self) -> None:
        self._sweeping = False
