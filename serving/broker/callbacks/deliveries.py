"""Sends the callbacks of all journals that a broker serves. Belongs to its event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from serving.broker import tickets
from serving.broker.callbacks.agenda import Agenda
from serving.broker.callbacks.due import Due
from serving.broker.callbacks.keys import Secrets
from serving.broker.callbacks.payload import payload, webhook_id
from serving.broker.callbacks.policy import read_url
from serving.broker.callbacks.records import CallbackState, Kept, Record
from serving.broker.callbacks.sender import Answer, Sender
from serving.broker.items import NEVER, Callback
from serving.control.clock import Clock
from serving.errors import MeshError, NotSupported
from serving.timeouts import cancel_and_wait, wait_for
from serving.webhooks import signed_headers

if TYPE_CHECKING:
    from serving.broker.settings import BrokerSettings
    from serving.broker.shard import Shard

_LOG: Final = logging.getLogger(__name__)
_LONGEST_WAIT_S: Final = 1.0
_MEASURE_S: Final = 5.0
_FAULT_S: Final = 5.0  # until another try, after one that has not come to an outcome
_GONE: Final = 410

Observe = Callable[[str, float], None]  # what came of a try, and how long it took


class Deliveries:
    """From `start` to `close`; `opened` and `released` tell which journals are served."""

    def __init__(
        self, settings: BrokerSettings, clock: Clock, observe: Observe, uniform: Callable[[], float] = random.random
    ) -> None:
        self._application = settings.application
        self._settings = settings.callbacks
        self._clock = clock
        self._observe = observe
        self._uniform = uniform
        self._secrets = Secrets(self._settings.secrets)
        self._sender = Sender(self._settings)
        self._agenda: Agenda[Due] = Agenda(
            self._settings.concurrency, self._settings.per_host, self._settings.per_tenant
        )
        self._shards: dict[str, Shard] = {}
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    # ------------------------------------------------------------------------------------------------ life

    def start(self) -> None:
        self._tasks = [
            asyncio.create_task(self._run(), name="callbacks"),
            asyncio.create_task(self._measure(), name="measure-callbacks"),
        ]

    def opened(self, shard: Shard) -> None:
        """What is due in it is sent from now on."""
        self._shards[shard.name] = shard
        shard.callbacks.on_due = self._add
        for due in list(shard.callbacks.entries.values()):
            self._add(due)

    def released(self, shard: Shard) -> None:
        """It goes elsewhere, with what is due in it; what is being sent is sent again there."""
        self._shards.pop(shard.name, None)
        shard.callbacks.on_due = lambda _: None
        for due in shard.callbacks.entries.values():
            due.gone = True
        self._agenda.drop_gone()  # each holds the shard

    def stop(self) -> None:
        """Nothing new is sent."""
        self._stopping = True

    async def wait_idle(self) -> None:
        """Returns when nothing is being sent, and what came of it is on disk."""
        await self._idle.wait()

    async def close(self) -> None:
        """After the journals were released. May be repeated."""
        self.stop()
        await cancel_and_wait(*self._tasks)
        await self._sender.close()

    # ------------------------------------------------------------------------------------------------ for submits

    def admit(self, callback: Callback) -> None:
        """Raises `NotSupported` where there are none, and `NotFound` for an unknown secret."""
        if self._settings.disabled:
            raise NotSupported("callback: this broker does not call back (broker.callbacks.disabled)")
        if callback.secret:
            self._secrets.keys(callback.secret)

    # ------------------------------------------------------------------------------------------------ the loop

    def _add(self, due: Due) -> None:
        self._agenda.add(due)
        self._wake.set()

    async def _run(self) -> None:
        """Until cancelled."""
        while True:
            self._wake.clear()
            wait_s = _LONGEST_WAIT_S
            try:
                wait_s = self._send_due(self._clock.now())
            except Exception:  # noqa: BLE001 - a fault of ours, told in the log; the others must go on
                _LOG.exception("callbacks could not be started")
            with contextlib.suppress(asyncio.TimeoutError):
                await wait_for(self._wake.wait(), wait_s)

    def _send_due(self, now: float) -> float:
        """Starts what can be sent; how long until there may be more."""
        if self._stopping:
            return _LONGEST_WAIT_S
        while (due := self._agenda.take(now)) is not None:
            due.at = NEVER
            self._idle.clear()
            due.home.shard.spawn(self._deliver(due)).add_done_callback(partial(self._ended, due))
        next_at = self._agenda.next_at()
        return _LONGEST_WAIT_S if next_at is None else min(max(next_at - now, 0.0), _LONGEST_WAIT_S)

    async def _measure(self) -> None:
        """Until cancelled."""
        while True:
            await self._clock.sleep(_MEASURE_S)
            for shard in list(self._shards.values()):
                try:
                    await shard.callbacks.measure()
                except MeshError as error:
                    keys = {"journal": shard.name, "error": error.message}
                    _LOG.warning("callbacks could not be counted", extra=keys)

    def _ended(self, due: Due, _: object) -> None:
        self._agenda.release(due)
        if not due.gone:
            if due.at == NEVER:  # it came to no outcome
                due.at = self._clock.now() + _FAULT_S
            self._agenda.add(due)
        if self._agenda.active == 0:
            self._idle.set()
        self._wake.set()

    # ------------------------------------------------------------------------------------------------ one try

    async def _deliver(self, due: Due) -> None:
        kept = await due.home.read(due, self._settings.max_inline_bytes)
        if kept is None or kept.item.callback is None:
            if not due.gone:
                due.home.withdraw(due.number)
            return
        started = time.monotonic()
        answer = await self._send(due, kept, kept.item.callback)
        after = self._judge(kept.record, answer)
        outcome = {CallbackState.DUE: "failed", CallbackState.DEAD: "given_up"}.get(after.state, "delivered")
        self._observe(outcome, time.monotonic() - started)
        if after.state is not CallbackState.DELIVERED:
            keys = {"item": due.home.shard.id_of(due.number), "receiver": due.receiver, "tries": after.tries}
            level = logging.WARNING if after.state is CallbackState.DEAD else logging.INFO
            _LOG.log(level, f"callback {outcome}", extra={**keys, "status": after.status, "reason": after.reason})
        await due.home.settle(due, kept, after)

    async def _send(self, due: Due, kept: Kept, callback: Callback) -> Answer:
        """The settings may have changed since it was taken: what they do not allow any more is not sent."""
        shard = due.home.shard
        try:
            if self._settings.disabled:
                raise NotSupported("callbacks are disabled (broker.callbacks.disabled)")
            read_url(callback.url, self._settings)
            keys = self._secrets.keys(callback.secret) if callback.secret else ()
        except MeshError as error:
            return Answer(0, error.message)
        item_id = shard.id_of(due.number)
        ticket = f"{item_id}.{tickets.secret(shard.journal.key, due.number)}"
        body = payload(kept, self._application, item_id, ticket)
        said = signed_headers(keys, webhook_id(item_id, kept.record.round), int(self._clock.now()), body)
        return await self._sender.post(callback.url, body, said)

    def _judge(self, before: Record, answer: Answer) -> Record:
        """What follows from an answer."""
        now, tries = self._clock.now(), before.tries + 1
        after = replace(before, tries=tries, status=answer.status, reason=answer.reason)
        if 200 <= answer.status < 300:
            return replace(after, state=CallbackState.DELIVERED, next=0.0)
        delay_s = max(self._settings.backoff.delay_s(tries, self._uniform), answer.retry_after_s)
        why = ""
        if answer.status == _GONE:
            why = "the receiver wants no more"
        elif tries >= self._settings.max_attempts:
            why = f"{tries} tries were made"
        elif now + delay_s > before.due + self._settings.max_age_s:
            why = f"the next try would be more than {self._settings.max_age_s:g} s after the item's end"
        if why:
            return replace(after, state=CallbackState.DEAD, next=0.0, reason=f"{answer.reason}; {why}")
        return replace(after, next=now + delay_s)
