"""Shares of keys' limits, written to etcd: beside the requests, never one write for each of them."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Collection
from typing import Final

from serving._proto import records_pb2 as pb
from serving.access.directory import KeyDirectory
from serving.access.meter import Counter, Meter, Reservation
from serving.access.presence import Presence
from serving.access.settling import Settlement, farewell, may_go, record_of, settle
from serving.access.share_view import ShareView, Written, written
from serving.config import EtcdConfig
from serving.control import Clock, Controller, Done, LookAgain, Outcome, Retry, SystemClock
from serving.errors import Conflict, MeshError, ResourceExhausted, StoreUnavailable
from serving.store import keys
from serving.store.client import EtcdClient
from serving.store.records import encode
from serving.store.types import Compare, Op
from serving.timeouts import cancel_and_wait, wait_for

_LOG: Final = logging.getLogger(__name__)
_WORKERS: Final = 8
_ATTEMPTS: Final = 8  # of one write, against others that write of the same key
_CONFLICT_PAUSE_S: Final = 0.005
_WAIT_S: Final = 0.5  # of a request, for room that others give back
_SILENCE_S: Final = 2.0  # of etcd, until it counts as away
_HOPELESS_S: Final = 1.0  # for which nobody is asked again, unless somebody writes
_LOOK_S: Final = 1.0  # at a key in use
_TIDY_S: Final = 5.0
_GONE_S: Final = 60.0  # until the shares of a gateway that has not ended in order are taken over
_FAREWELL_S: Final = 3.0


class LimitReached(ResourceExhausted):
    """A limit of a key has no room. `too_large`: it never will have for a request of this size."""

    def __init__(self, counter: Counter, amount: int, *, too_large: bool) -> None:
        super().__init__(f"limit {counter.name} of {counter.limit}")
        self.counter = counter
        self.amount = amount
        self.too_large = too_large


class Ledger:
    """One gateway's part. `start`, then `close`. Belongs to one event loop."""

    def __init__(
        self,
        config: EtcdConfig,
        client: EtcdClient,
        record: pb.GatewayRecord,
        directory: KeyDirectory,
        *,
        clock: Clock | None = None,
    ) -> None:
        """`directory` is its owner's to start and close; what changes there goes to `keys_changed`."""
        self.gateway = record.id
        self._client = client
        self._directory = directory
        self._clock = clock or SystemClock()
        self._presence = Presence(config, client, record)
        self._view = ShareView(client, self.gateway, self._peer_wrote)
        self._meters: dict[str, Meter] = {}
        self._changed: dict[str, asyncio.Event] = {}  # of keys for which requests wait
        self._synced_at: dict[str, float] = {}
        self._short: dict[str, set[str]] = {}
        self._gone_since: dict[str, float] = {}
        self._failed = False
        self.controller: Controller[str] = Controller("shares", self._reconcile, workers=_WORKERS, clock=self._clock)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        await self._presence.start()
        await self._view.start()
        self._tasks = [
            asyncio.create_task(self.controller.run(), name="shares"),
            asyncio.create_task(self._tidy(), name="shares-tidy"),
        ]

    async def close(self) -> None:
        """Says what was used, and gives the rest back."""
        await cancel_and_wait(*self._tasks)
        try:
            await wait_for(self._say_farewell(), _FAREWELL_S)
        except (StoreUnavailable, asyncio.TimeoutError) as error:
            _LOG.warning("shares are left to others", extra={"error": str(error)})
        await self._view.close()
        await self._presence.close()

    @property
    def away(self) -> bool:
        """True while etcd does not answer."""
        return self._failed or self._view.stale

    # ---------------------------------------------------------------------------------------------------- requests

    def meter(self, key: pb.ApiKey) -> Meter:
        """The meter of a key, with the limits of this record."""
        found = self._meters.get(key.id)
        if found is None:
            found = self._meters[key.id] = Meter(key.id, key.limits, self._clock.now())
        return found

    def keys_changed(self, key_ids: frozenset[str]) -> None:
        """Takes over the limits of these keys; forgets those that are gone."""
        for key_id in key_ids:
            key, meter = self._directory.get(key_id), self._meters.get(key_id)
            if key is None:
                self._meters.pop(key_id, None)
                self._synced_at.pop(key_id, None)
                self._short.pop(key_id, None)
            elif meter is not None:
                meter.set_limits(key.limits, self._clock.now())
            if meter is not None or self._view.of(key_id):
                self.controller.wake(key_id)

    async def reserve(self, meter: Meter, tokens: int) -> Reservation:
        """Places of one request, waited for a moment where others may give some back. Raises `LimitReached`."""
        meter.roll(self._clock.now())
        meter.asked(tokens)
        refusing = meter.refusing(tokens)
        if refusing is None:
            return meter.reserve(tokens)
        never = next((one for one in meter.counters.values() if one.counts_tokens and tokens > one.limit), None)
        if never is not None:
            raise LimitReached(never, tokens, too_large=True)
        if not self.away and refusing.hopeless_until <= self._clock.monotonic():
            refusing = await self._wait(meter, tokens, refusing)
        if refusing is not None and self.away:
            refusing = self._refusing_away(meter, tokens)
        if refusing is not None:
            raise LimitReached(refusing, tokens if refusing.counts_tokens else 1, too_large=False)
        return meter.reserve(tokens)

    async def _wait(self, meter: Meter, tokens: int, refusing: Counter) -> Counter | None:
        """None when there is room; else the limit that has none."""
        began = self._clock.monotonic()
        meter.waits(tokens, sign=1)
        self.controller.wake(meter.key_id)
        try:
            while (left := began + self._patience_s(meter, began) - self._clock.monotonic()) > 0:
                try:
                    await wait_for(self._changed.setdefault(meter.key_id, asyncio.Event()).wait(), left)
                except asyncio.TimeoutError:
                    break
                meter.roll(self._clock.now())
                found = meter.refusing(tokens)
                if found is None or self.away or found.hopeless_until > self._clock.monotonic():
                    return found
                refusing = found
        finally:
            meter.waits(tokens, sign=-1)
        if not self._asked_since(meter, began):
            return self._refusing_away(meter, tokens)
        refusing.hopeless_until = self._clock.monotonic() + _HOPELESS_S
        return meter.refusing(tokens)

    def _patience_s(self, meter: Meter, began: float) -> float:
        """Longer before etcd has answered: whoever takes it for away may use more than the limit."""
        return _WAIT_S if self._asked_since(meter, began) else _SILENCE_S

    def _asked_since(self, meter: Meter, began: float) -> bool:
        return self._synced_at.get(meter.key_id, -math.inf) >= began

    def _refusing_away(self, meter: Meter, tokens: int) -> Counter | None:
        return meter.refusing(tokens, away=True, gateways=len(self._view.living))

    def settle(self, meter: Meter, reservation: Reservation, tokens: int) -> None:
        """The request has ended and cost so many tokens."""
        meter.settle(reservation, tokens, self._clock.now())
        self._tell(meter.key_id)
        debts = any(counter.used > counter.granted for counter in meter.counters.values())
        if debts or self._short.get(meter.key_id):
            self.controller.wake(meter.key_id)

    # ------------------------------------------------------------------------------------------------- beside them

    def _peer_wrote(self, key_id: str) -> None:
        meter = self._meters.get(key_id)
        if meter is None:
            return
        for counter in meter.counters.values():
            counter.hopeless_until = 0.0
        self.controller.wake(key_id)

    def _tell(self, key_id: str) -> None:
        changed = self._changed.pop(key_id, None)
        if changed is not None:
            changed.set()

    async def _reconcile(self, key_id: str) -> Outcome:
        gone = self._gone_of(key_id)
        key = self._directory.get(key_id)
        if key is None:
            return await self._forget(key_id, gone) if self._directory.is_deleted(key_id) else Done()
        if key_id not in self._meters and not gone:
            return Done()
        meter = self.meter(key)
        meter.roll(self._clock.now())
        settlement = settle(meter, self.gateway, self._view.of(key_id), self._view.living, gone)
        if settlement.worth or any(counter.need for counter in meter.counters.values()):
            try:
                await self._write(meter, gone)
            except MeshError as error:
                self._failed = isinstance(error, StoreUnavailable)
                self._tell(key_id)
                return Retry(error.message)
        else:
            self._judged(meter, settlement)
        self._failed = False
        return Done() if meter.idle else LookAgain(_LOOK_S)

    async def _write(self, meter: Meter, gone: Collection[str]) -> None:
        """Reads what all have written, plans, and writes under the condition that nobody has written since."""
        prefix, own = keys.shares(meter.key_id), keys.share(meter.key_id, self.gateway)
        for _ in range(_ATTEMPTS):
            read = await self._client.txn((), (Op.get_prefix(prefix), Op.get_prefix(keys.GATEWAYS)))
            found = written(read.results[0].kvs)
            living = frozenset(kv.key.removeprefix(keys.GATEWAYS) for kv in read.results[1].kvs) | {self.gateway}
            self._check_folded(meter, found)
            meter.roll(self._clock.now())
            settlement = settle(meter, self.gateway, found, living, set(gone) - living)
            mine = found.get(self.gateway)
            if not settlement.worth and mine is not None:
                self._judged(meter, settlement)
                return
            for name, plan in settlement.plans.items():
                meter.counters[name].yield_to(plan.share)
            record = record_of(meter, self.gateway, settlement, mine.record if mine else None)
            compares = [
                Compare.mod_revision(own, mine.mod_revision if mine else 0),
                Compare.prefix_mod_before(prefix, read.revision + 1),
                *(Compare.absent(keys.gateway(name)) for name in settlement.removed),
            ]
            ops = [Op.put(own, encode(record)), *(Op.delete(keys.share(meter.key_id, n)) for n in settlement.removed)]
            if (await self._client.txn(compares, ops)).succeeded:
                self._wrote(meter, settlement)
                return
            await asyncio.sleep(random.uniform(0, _CONFLICT_PAUSE_S))
        raise Conflict(f"the shares of key {meter.key_id} are written by others all the time")

    def _wrote(self, meter: Meter, settlement: Settlement) -> None:
        for name, plan in settlement.plans.items():
            counter = meter.counters.get(name)
            if counter is not None:
                counter.used += settlement.folded[name]
                counter.wrote(plan.share, plan.free)
        if settlement.removed:
            _LOG.info("shares taken over", extra={"key_id": meter.key_id, "gateways": list(settlement.removed)})
        self._judged(meter, settlement)

    def _judged(self, meter: Meter, settlement: Settlement) -> None:
        """Lets those who wait look again."""
        now = self._clock.monotonic()
        for name, plan in settlement.plans.items():
            counter = meter.counters.get(name)
            if counter is not None:
                counter.free = plan.free
                counter.hopeless_until = now + _HOPELESS_S if plan.hopeless else 0.0
        self._short[meter.key_id] = settlement.short
        self._synced_at[meter.key_id] = now
        self._tell(meter.key_id)

    def _check_folded(self, meter: Meter, found: dict[str, Written]) -> None:
        """After a while without etcd another gateway may have taken over what this one had written."""
        if self.gateway in found:
            return
        folded = any(self.gateway in one.record.folded for one in found.values())
        for counter in meter.counters.values():
            if folded and counter.published is not None and counter.period.is_budget:
                counter.used = max(0, counter.used - counter.published.granted)
            counter.published = None

    # ------------------------------------------------------------------------------------------ gateways that are gone

    def _gone_of(self, key_id: str) -> list[str]:
        """Whose records of this key are to be taken over by this gateway now."""
        now, monotonic = self._clock.now(), self._clock.monotonic()
        living = self._view.living
        if self.away or min(living) != self.gateway:
            return []
        return [
            name
            for name, one in self._view.of(key_id).items()
            if name not in living
            and (one.record.left or monotonic - self._gone_since.get(name, monotonic) >= _GONE_S)
            and may_go(one.record, now)
        ]

    async def _forget(self, key_id: str, gone: Collection[str]) -> Outcome:
        """Of a key that was deleted: its shares go."""
        try:
            for name in {self.gateway, *gone} & self._view.of(key_id).keys():
                await self._client.delete(keys.share(key_id, name))
        except MeshError as error:
            return Retry(error.message)
        return Done()

    async def _tidy(self) -> None:
        while True:
            await self._clock.sleep(_TIDY_S)
            absent = self._view.gone()
            now = self._clock.monotonic()
            self._gone_since = {name: self._gone_since.get(name, now) for name in absent}
            for key_id in {key_id for key_ids in absent.values() for key_id in key_ids}:
                if self._gone_of(key_id):
                    self.controller.wake(key_id)

    async def _say_farewell(self) -> None:
        for key_id, meter in self._meters.items():
            mine = self._view.of(key_id).get(self.gateway)
            meter.roll(self._clock.now())
            record = farewell(meter, self.gateway, mine.record if mine else None)
            if record is not None:
                await self._client.put(keys.share(key_id, self.gateway), encode(record))
            elif mine is not None:
                await self._client.delete(keys.share(key_id, self.gateway))
