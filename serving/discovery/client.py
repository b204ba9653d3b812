"""Requests to the endpoints of one application: pick, call, try elsewhere what is safe, within the deadline.

What a caller sees: an answer, an error of `serving.errors` that names the replica, or `DeadlineExceeded` in time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

import grpc.aio

from serving._proto import records_pb2 as pb
from serving.config import TlsConfig
from serving.discovery.client_checks import checked
from serving.discovery.client_config import ClientConfig, ClientStats
from serving.discovery.client_health import HealthMonitor
from serving.discovery.client_metadata import for_proxies
from serving.discovery.client_peer import Peer, PeerKey
from serving.discovery.client_peers import PeerSet, value_of
from serving.discovery.client_request import AttemptFailed, Metadata, Request, sequence_of
from serving.discovery.client_shadow import Shadows
from serving.discovery.client_tls import channel_credentials
from serving.discovery.client_verdict import Fault, Next, Verdict, judge, was_never_sent
from serving.errors import (
    Code,
    DeadlineExceeded,
    FailedPrecondition,
    MeshError,
    NotFound,
    Unavailable,
    error_for_code,
)
from serving.routing import OutlierDetector, Place, Rank, RetryBudget, prefer_labels
from serving.spelling import closest_match
from serving.timeouts import cancel_and_wait, cancelled_by_owner, wait_for
from serving.types import ROLE_PROXY

_log = logging.getLogger(__name__)

SLOW_FACTOR = 4.0
INFER = "ModelInfer"


class View(Protocol):
    """The part of a resolver's view that is used."""

    @property
    def endpoints(self) -> Sequence[pb.Endpoint]: ...

    @property
    def stale(self) -> bool: ...

    @property
    def stale_for_s(self) -> float: ...

    @property
    def splits(self) -> tuple[pb.TrafficSplit, ...]: ...


class NoEndpoint(Unavailable):
    """The request was sent to nobody."""


class EndpointSource(Protocol):
    """Where endpoints come from: `serving.discovery.Resolver`, or a fixed list in a test."""

    @property
    def view(self) -> View: ...

    def subscribe(self) -> AsyncIterator[View]: ...

    def refused(self, endpoint: pb.Endpoint) -> bool: ...


class InferenceClient:
    """Sends KServe v2 requests to one application's endpoints. One event loop; close it when done.

    Endpoints come from `source`, whose owner starts and closes it. While etcd is away the last view is used, and
    `stale` says so. Endpoints that fail are left out for a while, probed, and taken back.
    """

    def __init__(
        self,
        source: EndpointSource,
        *,
        application: str = "",
        config: ClientConfig | None = None,
        tls: TlsConfig | None = None,
        rank: Rank | None = None,
    ) -> None:
        """`application` is what errors call it. `rank` prefers endpoints by labels, instead of what `config` says."""
        self.stats = ClientStats()
        self._source = source
        self._application = application or "the application"
        self._config = config or ClientConfig()
        self._tls = tls
        self._detector: OutlierDetector[PeerKey] = OutlierDetector(self._config.outliers)
        if rank is None and self._config.prefer_labels:
            rank = prefer_labels(dict(self._config.prefer_labels))
        self._peers = PeerSet(self._detector, rank, choice=self._config.choice)
        self._shadows = Shadows(self._peers, self.stats)
        self._budget = RetryBudget(self._config.budget)
        self._health = HealthMonitor(
            self._peers, self._config.health, ejected=self._note_ejected, restored=self._note_restored
        )
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._closed = False

    # -------------------------------------------------------------------------------------------- life

    async def start(self) -> None:
        """Begins to follow the source; returns at once when it has a view already or not."""
        if self._tls is not None:
            self._peers.credentials = await asyncio.to_thread(channel_credentials, self._tls)
        self._peers.apply(self._source.view.endpoints, self._source.view.splits)
        self._tasks = [
            asyncio.create_task(self._follow(), name="inference-client-follow"),
            asyncio.create_task(self._health.run(), name="inference-client-health"),
        ]
        for task in self._tasks:
            task.add_done_callback(self._background_ended)

    async def close(self) -> None:
        """Ends what runs with `Unavailable` and closes the connections. May be called more than once."""
        self._closed = True
        self._wake()
        await cancel_and_wait(*self._tasks)
        self._tasks = []
        await self._shadows.close()
        peers = self._peers.everyone()
        for peer in peers:
            peer.abort_calls()
        await asyncio.gather(*(peer.close() for peer in peers))

    async def __aenter__(self) -> InferenceClient:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def stale(self) -> bool:
        """True while discovery does not answer, so that the endpoints may be out of date."""
        return self._source.view.stale

    @property
    def endpoints(self) -> tuple[pb.Endpoint, ...]:
        """The endpoints that requests are chosen from now, draining ones among them."""
        return self._peers.endpoints()

    # -------------------------------------------------------------------------------------------- call

    async def call(
        self,
        method: str,
        request: Any,
        *,
        timeout_s: float,
        retry_safe: bool = True,
        model: str = "",
        version: str = "",
        deployment: str = "",
        metadata: Metadata = (),
    ) -> Any:
        """Sends `request` (a message of `tritonclient.grpc.service_pb2`) and returns the answer's message.

        `method` is one of KServe's unary ones, such as `ModelInfer`. Only endpoints that offer `model`, `version` and
        `deployment` are asked ("" is any). `retry_safe` False: never executed twice. Raises errors of `serving.errors`.
        """
        if self._config.via == ROLE_PROXY:
            metadata = for_proxies(metadata, deployment=deployment, retry_safe=retry_safe)
            deployment = ""  # the name of the proxies is another one
        pending = checked(method, request, timeout_s, retry_safe, (deployment, model, version), metadata)
        if self._config.hash_key:
            pending.hash_key = value_of(metadata, self._config.hash_key)
        if method == INFER:
            pending.sequence = sequence_of(request)
            if not pending.sequence and (shadow := self._peers.shadow(pending.target)):
                self._shadows.send(pending, shadow)
        stats = self.stats
        stats.requests += 1
        stats.in_flight += 1
        self._budget.request()
        try:
            answer = await self._run(pending)
        except MeshError as error:
            stats.failed += 1
            stats.failed_by_code[error.code.name] = stats.failed_by_code.get(error.code.name, 0) + 1
            raise
        except asyncio.CancelledError:
            stats.cancelled += 1
            raise
        finally:
            stats.in_flight -= 1
        stats.succeeded += 1
        return answer

    async def _run(self, pending: Request) -> Any:
        while True:
            now = time.monotonic()
            self._peers.choose_sides(pending)
            peer = self._peers.route(pending.target, pending.sides).pick(pending.tried, now, pending.hash_key)
            if peer is None:
                await self._wait_for_peer(pending)
                continue
            if now >= pending.deadline:
                raise self._too_late(pending)
            try:
                return await self._attempt(peer, pending, now)
            except AttemptFailed as failure:
                await self._prepare_retry(peer, pending, failure)

    async def _attempt(self, peer: Peer, pending: Request, now: float) -> Any:
        if self._closed:
            raise FailedPrecondition("the inference client is closed")
        pending.attempts += 1
        self.stats.attempts += 1
        if pending.sides and self._peers.traffic.place(pending.sides, peer.endpoint) is not Place.ON_SIDE:
            self.stats.spared += 1
        call = peer.stub(pending.method)(pending.payload, timeout=pending.deadline - now, metadata=pending.metadata)
        peer.calls[call] = now
        try:
            answer = await call
        except grpc.aio.AioRpcError as error:
            raise self._failed(peer, pending, error, now) from error
        except asyncio.CancelledError:
            if call in peer.aborted and not cancelled_by_owner(unknown=False):
                raise self._aborted(peer, pending) from None
            raise
        finally:
            del peer.calls[call]
            peer.aborted.discard(call)
        done = time.monotonic()
        peer.answered_at = done
        peer.observe(done - now, done)
        self._detector.succeeded(peer.key, done)
        return answer

    # -------------------------------------------------------------------------------------------- after a failure

    def _failed(self, peer: Peer, pending: Request, error: grpc.aio.AioRpcError, started: float) -> AttemptFailed:
        """Judges a status and tells the ejection of it."""
        now = time.monotonic()
        code = int(error.code().value[0])
        details = error.details() or error.code().name
        verdict = judge(code, details, connected=peer.is_connected(), retry_safe=pending.retry_safe)
        fault = verdict.fault
        ejected = False
        if fault in (Fault.NONE, Fault.BUSY):
            peer.answered_at = now
        if fault is Fault.NONE:
            self._detector.succeeded(peer.key, now)
        elif fault in (Fault.LOST, Fault.LEAVING):
            ejected = self._detector.lost(peer.key, now)
            if fault is Fault.LOST and was_never_sent(details, connected=False):
                self._source.refused(peer.endpoint)  # ends what only a replaced store's old view still knows
        elif fault is Fault.FAILED or (fault is Fault.SLOW and self._was_slow(now - started, now)):
            ejected = self._detector.failed(peer.key, now)
        if ejected:
            self._note_ejected(peer)
        text = f"{details} ({peer}, attempt {pending.attempts})"
        if code == Code.CANCELLED:  # by the replica: to the caller it is one that does not serve
            return AttemptFailed(Unavailable(f"the replica cancelled the request: {text}"), verdict)
        return AttemptFailed(error_for_code(code, text), verdict)

    def _was_slow(self, ran_s: float, now: float) -> bool:
        """A deadline that passed counts against the endpoint when it left several times the usual latency."""
        return ran_s >= SLOW_FACTOR * self._peers.typical_latency_s(now)

    def _aborted(self, peer: Peer, pending: Request) -> AttemptFailed:
        """The health monitor, or `close`, ended the call."""
        why = "the inference client was closed" if self._closed else "it does not answer, not even whether it is live"
        again = pending.retry_safe and not self._closed
        verdict = Verdict(Next.ELSEWHERE if again else Next.RAISE, Fault.LOST)
        return AttemptFailed(Unavailable(f"{why} ({peer}, attempt {pending.attempts})"), verdict)

    async def _prepare_retry(self, peer: Peer, pending: Request, failure: AttemptFailed) -> None:
        """Returns when the request may be tried again; raises its error when not."""
        pending.error = failure.error
        pending.tried.add(peer.key)
        what = failure.verdict.next
        now = time.monotonic()
        other = self._peers.route(pending.target, pending.sides).pick(pending.tried, now, pending.hash_key)
        once = what is Next.ELSEWHERE_ONCE
        if what is Next.RAISE or (once and (pending.asked_elsewhere or other is None)) or now >= pending.deadline:
            raise failure.error from failure.__cause__
        pending.asked_elsewhere = pending.asked_elsewhere or once
        if pending.attempts >= self._config.max_attempts:
            raise failure.error from failure.__cause__
        if not self._budget.try_spend(now):
            self.stats.budget_refused += 1
            text = f"{failure.error.message}; not tried again: too many requests fail, the retry budget is used up"
            raise type(failure.error)(text) from failure.__cause__
        self.stats.retries += 1
        if other is None or what is Next.LATER:
            await self._pause(pending, failure.error)

    async def _pause(self, pending: Request, error: MeshError) -> None:
        """Waits before the next attempt, less when endpoints change; raises `error` when the deadline is nearer."""
        longest = min(self._config.backoff_s * 2.0 ** min(pending.attempts - 1, 20), self._config.backoff_max_s)
        pause = longest * random.uniform(0.5, 1.0)
        if time.monotonic() + pause >= pending.deadline:
            raise error
        await self._wait_for_change(pause)

    async def _wait_for_peer(self, pending: Request) -> None:
        """Returns when there is an endpoint to ask; raises when there is none in time."""
        if self._peers.route(pending.target, pending.sides):
            pending.tried.clear()  # all were asked: begin again
            return
        self.stats.waited += 1
        deployment, model, _ = pending.target
        started = time.monotonic()
        while not self._peers.route(pending.target, pending.sides):
            if self._closed:
                raise FailedPrecondition("the inference client is closed")
            limit = pending.deadline
            offered = bool(self._peers.route(pending.target))  # by endpoints that this request must not go to
            unknown = bool(model) and not offered and self._peers.has_ready(deployment)
            if unknown:
                limit = min(limit, started + self._config.unknown_model_wait_s)
            left = limit - time.monotonic()
            if left <= 0:
                raise self._unknown_model(pending) if unknown else self._no_endpoint(pending)
            await self._wait_for_change(left)

    # -------------------------------------------------------------------------------------------- errors

    def _too_late(self, pending: Request) -> MeshError:
        last = f"; last error: {pending.error.message}" if pending.error else ""
        return DeadlineExceeded(f"{pending.method} to {self._application}: the time is used up{last}")

    def _unknown_model(self, pending: Request) -> MeshError:
        deployment, model, version = pending.target
        offered = self._peers.offered(deployment)
        asked = f"model {model}" + (f" in version {version}" if version else "")
        closest = closest_match(model, offered) if model not in offered else ""
        hint = f"; did you mean `{closest}`?" if closest else ""
        where = f"{self._application}/{deployment}" if deployment else self._application
        return NotFound(f"no endpoint of {where} offers {asked}{hint} (offered: {', '.join(offered) or 'nothing'})")

    def _no_endpoint(self, pending: Request) -> MeshError:
        deployment = pending.target[0]
        where = f"{self._application}/{deployment}" if deployment else self._application
        view = self._source.view
        known = f"{len(self._peers)} known, none takes new work" if len(self._peers) else "none is registered"
        if pending.sides and self._peers.route(pending.target):
            known = "the traffic split allows none of those that are there: " + ", ".join(map("/".join, pending.sides))
        stale = f"; etcd has not answered for {view.stale_for_s:.0f} s" if view.stale else ""
        last = f"; last error: {pending.error.message}" if pending.error else ""
        return NoEndpoint(f"no endpoint of {where} became ready in time: {known}{stale}{last}")

    # -------------------------------------------------------------------------------------------- background

    async def _follow(self) -> None:
        async for view in self._source.subscribe():
            self._peers.apply(view.endpoints, view.splits)
            self._wake()

    def _background_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            _log.error(
                "a task of the inference client failed", extra={"task": task.get_name()}, exc_info=task.exception()
            )

    def _note_ejected(self, peer: Peer) -> None:
        self.stats.ejections += 1
        self._peers.changed()
        _log.warning("endpoint ejected", extra={"endpoint": str(peer), "ejected": self._detector.ejected})

    def _note_restored(self, peer: Peer) -> None:
        self.stats.restored += 1
        self._peers.changed()
        self._wake()
        _log.info("endpoint is back", extra={"endpoint": str(peer)})

    def _wake(self) -> None:
        """Wakes everyone who waits for a change of the endpoints."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _wait_for_change(self, limit_s: float) -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            await wait_for(self._changed.wait(), limit_s)
