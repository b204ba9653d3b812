"""Pulls work from the brokers of a replica's application: gives credits, runs items, says what came of them.

An outcome is kept until the broker has it on disk. An item belongs to its journal, not to a broker: what is said of it
goes to whichever broker serves the journal then.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import grpc

from serving._proto import broker_pb2 as bpb
from serving._proto import records_pb2 as pb
from serving.broker.pulled import takes
from serving.broker.puller.ahead import Ahead
from serving.broker.puller.credits import Credits
from serving.broker.puller.held import HeldItem, HeldItems, journal_of
from serving.broker.puller.instruments import PullInstruments
from serving.broker.puller.link import BrokerLink
from serving.broker.puller.run import DEFAULT_RESULT_BYTES, Job, PullEntry, Returned
from serving.errors import Code
from serving.timeouts import cancel_and_wait
from serving.types import ENDPOINT_READY, PROTOCOL_BROKER_GRPC

_LOG: Final = logging.getLogger(__name__)
MOST_HELD: Final = 1024  # items, where the spec does not say
MAX_HELD_BYTES: Final = 256 << 20  # of requests that run and outcomes that wait: above it nothing more is asked for
HOMELESS_S: Final = 3600.0  # an outcome whose journal nobody serves is kept for so long
_FULL_PATIENCE_S: Final = 10.0  # an item waits here for room, then it may go elsewhere
_FULL_FIRST_S: Final = 0.05
_FULL_LIMIT_S: Final = 1.0
_DRAINING: Final = "the replica drains"
_LATE: Final = "it waited behind one that takes long"


class Puller:
    """From `apply` to `close` on one loop. Pulls only while it is `open`."""

    def __init__(
        self, config: pb.ReplicaConfig, entry: PullEntry, credentials: grpc.ChannelCredentials | None = None
    ) -> None:
        self._config = config
        self._runner = entry.runner
        self._credentials = credentials
        self._process = secrets.token_hex(16)
        self._held = HeldItems()
        self._links: dict[tuple[str, str, int], BrokerLink] = {}
        self._listed: Sequence[pb.Endpoint] = ()
        self._least = entry.least
        self._ahead = Ahead()
        self._credits = Credits(least=self._least, most=MOST_HELD, ahead=self._ahead)
        self._waiting: deque[HeldItem] = deque()  # for those that run
        self._fixed = 0
        self._open = False
        self._draining = False
        self._closed = False
        self._full_until = 0.0
        self._idle = asyncio.Event()
        self._instruments = PullInstruments(
            entry.registry,
            brokers=lambda: sum(link.connected for link in self._links.values()),
            held=lambda: len(self._held),
            credit=lambda: sum(max(0, link.outstanding) for link in self._links.values()),
        )

    # ------------------------------------------------------------------------------------------------ its life

    def set_open(self, is_open: bool) -> None:
        """While it is not, nothing more is asked for; what runs goes on."""
        self._open = is_open and not self._draining
        self._allot()

    def drain(self) -> None:
        """Asks for nothing any more, for good. Work that is on its way, or waits here, goes back."""
        self._draining = True
        self.set_open(False)
        while self._waiting:
            self._give_back(self._waiting[0], _DRAINING)

    async def wait_idle(self) -> None:
        """Returns when nothing runs and every outcome is stored."""
        while len(self._held):
            self._idle.clear()
            await self._idle.wait()

    async def stop_running(self) -> None:
        """Ends what runs, which goes back to its broker."""
        self.drain()
        running = [held.task for held in self._held if held.task is not None and not held.task.done()]
        await cancel_and_wait(*running)

    async def close(self) -> None:
        """Ends everything. Outcomes that are not stored are lost: their items run again."""
        self._closed = True
        await self.stop_running()
        left = [held.work.item for held in self._held]
        if left:
            _LOG.warning("outcomes are not stored", extra={"items": len(left), "first": left[0]})
        await asyncio.gather(*(link.close() for link in self._links.values()))

    def apply(self, endpoints: Sequence[pb.Endpoint]) -> None:
        """The endpoints of brokers that are in discovery now."""
        self._listed = endpoints
        found = {(one.id, one.address, one.pid): one for one in endpoints if self._serves(one)}
        for key, endpoint in found.items():
            link = self._links.get(key)
            if link is None or link.has_ended:
                link = self._links[key] = BrokerLink(endpoint, self, self._credentials)
                link.start()
            link.listed(endpoint)
        for key, link in self._links.items():
            if key not in found:
                link.leave()
        self._links = {key: link for key, link in self._links.items() if key in found or not link.has_ended}
        self._set_fixed(max((one.per_replica for one in found.values()), default=0))
        self._forget_homeless()
        self._allot()

    def _serves(self, endpoint: pb.Endpoint) -> bool:
        return (
            endpoint.protocol == PROTOCOL_BROKER_GRPC
            and endpoint.state == ENDPOINT_READY
            and takes(endpoint.before, self._config.deployment)
        )

    def _set_fixed(self, fixed: int) -> None:
        """What the spec says; 0: as it measures."""
        if fixed != self._fixed:
            self._fixed = fixed
            self._credits = Credits(least=self._least, most=MOST_HELD, fixed=fixed, ahead=self._ahead)

    def _forget_homeless(self) -> None:
        now = time.monotonic()
        for held in self._held:
            if not held.runs and now - held.ended_at > HOMELESS_S and self._home(held) is None:
                _LOG.warning("nobody serves the item's journal; its outcome is dropped", extra={"item": held.work.item})
                self._remove(held)

    def _home(self, held: HeldItem) -> BrokerLink | None:
        """Who serves the item's journal: a broker in discovery rather than one that has left it."""
        serving = [link for link in self._links.values() if link.connected and held.journal in link.journals]
        return min(serving, key=lambda link: link.gone, default=None)

    # ------------------------------------------------------------------------------------------------ credits

    def _allot(self) -> None:
        """Shares what the replica has room for among its brokers, at least one for each: any may have all the work."""
        taking = [link for link in self._links.values() if link.connected and not link.gone]
        share = -(-self._room() // len(taking)) if taking else 0
        ahead = max(0, self._credits.wanted - self._credits.found)
        for link in self._links.values():
            link.grant = share if link in taking else 0
            link.ahead = ahead
            if link.grant != link.outstanding or link.ahead != link.ahead_said:
                link.wake()

    def _room(self) -> int:
        if not self._open or time.monotonic() < self._full_until or self._held.size > MAX_HELD_BYTES:
            return 0
        return max(0, self._credits.wanted - self._held.running)

    def _pause(self, pause_s: float) -> None:
        """The replica is full: nothing more for so long."""
        self._full_until = time.monotonic() + pause_s
        self._allot()
        asyncio.get_running_loop().call_later(pause_s, self._allot)

    # ------------------------------------------------------------------------------------------------ of the links

    def hello(self) -> bpb.PullRequest:
        config = self._config
        # All of them: what a broker should know to run here and does not hear of goes back to its queue.
        mine = [held for held in self._held if not held.unwanted]
        hello = bpb.Hello(
            replica=config.id,
            process=self._process,
            deployment=config.deployment,
            generation=config.generation,
            revision=config.revision,
            held=[bpb.Held(item=held.work.item, attempt=held.work.attempt) for held in mine],
        )
        return bpb.PullRequest(hello=hello)

    def welcomed(self, link: BrokerLink, welcome: bpb.Welcome) -> None:
        for lost in welcome.lost:
            if journal_of(lost.item) in link.journals:  # else another broker says what is to become of it
                self._stop(lost.item, lost.attempt, "its lease has ended")
        self._allot()

    def received(self, link: BrokerLink, reply: bpb.PullReply) -> None:
        kind = reply.WhichOneof("message")
        if kind == "work":
            link.outstanding -= 1
            self._take(reply.work, link)
        elif kind == "stop":
            self._stop(reply.stop.item, reply.stop.attempt, reply.stop.reason)
        elif kind == "stored":
            held = self._held.get(reply.stored.item, reply.stored.attempt)
            if held is not None and not held.runs:
                self._remove(held)
        self._allot()

    def to_say(self, link: BrokerLink, *, progress: bool) -> Sequence[bpb.PullRequest]:
        said: list[bpb.PullRequest] = []
        now = time.monotonic()
        for held in self._held:
            if held.unwanted or self._home(held) is not link:
                continue
            parts = held.take_parts()
            if parts or progress:
                item, attempt = held.key
                said.append(bpb.PullRequest(progress=bpb.Progress(item=item, attempt=attempt, parts=parts)))
            if held.outcome is not None and (held.said_at is None or now - held.said_at > link.lease_s):
                held.said_at = now
                said.append(bpb.PullRequest(done=held.outcome))
        more = link.grant - link.outstanding
        if more or link.ahead != link.ahead_said:
            link.outstanding, link.ahead_said = link.grant, link.ahead
            said.append(bpb.PullRequest(credits=bpb.Credits(more=more, ahead=link.ahead)))
        return said

    def disconnected(self, link: BrokerLink) -> None:
        for held in self._held:
            if held.journal in link.journals:
                held.said_at = None
        for other in self._links.values():
            other.wake()  # its journals may have another home already
        self._allot()

    def ended(self, link: BrokerLink) -> None:
        """It is not opened again; where the broker has come back to discovery at that moment, by another link."""
        if not self._closed:
            _LOG.debug("a broker is left", extra={"broker": link.endpoint.id})
            self.apply(self._listed)

    # ------------------------------------------------------------------------------------------------ items

    def _take(self, work: bpb.Work, link: BrokerLink) -> None:
        if self._held.get(work.item, work.attempt) is not None:
            return
        for earlier in self._held:
            if earlier.work.item == work.item and earlier.work.attempt < work.attempt:
                self._stop(work.item, earlier.work.attempt, "a later attempt has come")
        held = HeldItem(work, time.monotonic(), work.ByteSize(), link.max_result_bytes or DEFAULT_RESULT_BYTES)
        self._held.add(held)
        if self._draining:
            self._finish(held, Returned(bpb.Failure(code=Code.UNAVAILABLE, message=_DRAINING)))
            return
        self._credits.came(held.arrived)
        self._waiting.append(held)
        self._begin_next()
        if held.task is None:
            asyncio.get_running_loop().call_later(self._ahead.patience_s, self._waited, held)

    def _begin_next(self) -> None:
        """As many of those that wait as may run."""
        while self._waiting and self._credits.running < self._credits.at_once:
            self._begin(self._waiting.popleft())

    def _begin(self, held: HeldItem) -> None:
        now = time.monotonic()
        self._credits.began(now)
        held.task = asyncio.create_task(self._run(held, held.limit_bytes), name=f"item {held.work.item}")
        # Also where it is cancelled before it begins.
        held.task.add_done_callback(lambda task: self._ended(held, task, time.monotonic() - now))

    def _waited(self, held: HeldItem) -> None:
        """For its time. What runs takes longer than usual, and others may have room. Those that have just come stay:
        what runs may end before their time is over."""
        if held in self._waiting:
            self._ahead.gave_back()
            self._give_back(held, _LATE)

    def _give_back(self, held: HeldItem, reason: str) -> None:
        """One that waits here."""
        self._waiting.remove(held)
        self._credits.went()
        self._finish(held, Returned(bpb.Failure(code=Code.UNAVAILABLE, message=reason)))

    async def _run(self, held: HeldItem, limit_bytes: int) -> bpb.Result | Returned:
        """A replica that others have filled gets room again; only then, or after a while, the item goes back."""
        work, pause_s = held.work, _FULL_FIRST_S
        emit = self._emitter(held) if work.wants_parts else None
        while True:
            waited_s = time.monotonic() - held.arrived
            left_s = max(0.001, work.left_s - waited_s) if work.left_s else None
            outcome = await self._runner.run(Job(work.request, left_s, emit, limit_bytes))
            full = isinstance(outcome, Returned) and outcome.full
            if not full or self._draining or waited_s > _FULL_PATIENCE_S:
                return outcome
            self._pause(2 * pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _FULL_LIMIT_S)

    def _emitter(self, held: HeldItem) -> Callable[[bytes], None]:
        def emit(body: bytes) -> None:
            held.add_part(body)
            self._wake_home(held)

        return emit

    def _ended(self, held: HeldItem, task: asyncio.Task[bpb.Result | Returned], took_s: float) -> None:
        self._credits.ended(time.monotonic(), took_s)
        self._begin_next()
        if task.cancelled():
            self._finish(held, _returned("the replica ended the run"))
        elif (error := task.exception()) is not None:  # whatever a runner raises, the item must not be lost
            _LOG.error("a run failed inside", exc_info=error, extra={"item": held.work.item})
            self._finish(held, _returned(f"the run failed inside the replica: {type(error).__name__}", Code.INTERNAL))
        else:
            self._finish(held, task.result())

    def _finish(self, held: HeldItem, outcome: bpb.Result | Returned) -> None:
        held.ended_at = time.monotonic()
        if held.unwanted:
            self._instruments.outcomes.labels("stopped").inc()
            self._remove(held)
            return
        done = bpb.Done(item=held.work.item, attempt=held.work.attempt)
        if isinstance(outcome, Returned):
            done.again.CopyFrom(outcome.failure)
            done.untouched = not outcome.begun
            kind = "returned"
        else:
            done.result.CopyFrom(outcome)
            kind = "failure" if outcome.HasField("failure") else "result"
        held.work.ClearField("request")  # it is not needed again
        held.outcome, held.size = done, done.ByteSize()
        self._instruments.outcomes.labels(kind).inc()
        self._wake_home(held)
        self._allot()

    def _stop(self, item: str, attempt: int, reason: str) -> None:
        held = self._held.get(item, attempt)
        if held is None or held.unwanted:
            return
        _LOG.info("item stopped", extra={"item": item, "attempt": attempt, "reason": reason})
        held.unwanted = True
        if held.runs and held.task is not None:
            held.task.cancel()  # `_finish` removes it
        else:
            if held in self._waiting:
                self._waiting.remove(held)
                self._credits.went()
            self._remove(held)

    def _remove(self, held: HeldItem) -> None:
        self._held.remove(held)
        self._idle.set()
        self._allot()

    def _wake_home(self, held: HeldItem) -> None:
        """There is news of an item for its broker."""
        home = self._home(held)
        if home is not None:
            home.wake()


def _returned(reason: str, code: Code = Code.UNAVAILABLE) -> Returned:
    return Returned(bpb.Failure(code=int(code), message=reason), begun=True)
