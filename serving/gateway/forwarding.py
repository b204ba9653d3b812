"""One request from a client to a replica and its answer back, byte for byte; elsewhere when the replica fails first."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from serving._proto import records_pb2 as pb
from serving.errors import Internal, MeshError, Unavailable
from serving.gateway.balance import NO_DEMAND
from serving.gateway.catalog import ModelKey, Offer
from serving.gateway.demand import Demand
from serving.gateway.follower import Following
from serving.gateway.instruments import Instruments
from serving.gateway.keys.usage import UsageReader
from serving.gateway.passing import Broken, forwarded_headers, pass_on
from serving.gateway.recording import Recorder
from serving.gateway.resuming import ResumableStream, pass_steps
from serving.gateway.splits import Chosen, Splits, no_value
from serving.gateway.upstreams import Upstream, UpstreamKey, Upstreams, upstream_key
from serving.gateway.work import Work
from serving.http_client import Answer, Broke, HttpClient, NotConnected, RequestFailed, Silent
from serving.openai import resume
from serving.openai.service_tier import BATCH_CLASS, CLASS_HEADER
from serving.routing import Place
from serving.routing.traffic import Lookup
from serving.timeouts import wait_for
from serving.wire import Wire

_LOG: Final = logging.getLogger(__name__)
ANSWERED_BY: Final = "x-mesh-model"  # the full name of the model that answered
# Of the client's headers replicas see these: nothing that authenticates it, or belongs to its connection.
PASSED: Final = frozenset(
    {b"content-type", b"accept", b"traceparent", b"tracestate", b"user-agent", CLASS_HEADER.encode()}
)
_FULL: Final = 429
_AWAY: Final = 503  # the replica leaves, or its engine has failed
_SERVER_FAULTS: Final = 500
_CLIENT_FAULTS: Final = 400
_REST_S: Final = 1.0  # of a replica that says that it is full, and not for how long
_LONGEST_REST_S: Final = 30.0
_REFUSAL_S: Final = 1.0  # for the rest of an answer that says no
_OK: Final = 200
_TIMED_OUT: Final = 504  # by the client's own deadline
_KEPT_BYTES: Final = 256 << 20  # of bodies of all streams that may be continued: others are not
_RESENT: Final = 1  # times that a request is sent again after a replica has had it: it may be what kills replicas


@dataclass(slots=True)
class Request:
    """What is sent on. `key` is the model; `headers` are those that replicas may see; `demand` says where it fits.

    `usage` reads the answer, `recorder` remembers it. With `spare` another model waits to be asked: what this one's
    replicas cannot answer is not the client's to see. `resumable`: its stream may be continued on another replica;
    `stream`, once one has begun that can be. `lookup` and `session` say to which sides it belongs where its application
    splits its requests; `chosen` are these.
    """

    key: ModelKey
    path: str
    body: bytes
    headers: dict[str, str]
    demand: Demand = NO_DEMAND
    tenant: str = ""
    usage: UsageReader | None = None
    recorder: Recorder = field(default_factory=Recorder)
    until: float = 0.0  # when it is not held any more
    tried: set[UpstreamKey] = field(default_factory=set)
    attempts: int = 0
    resent: int = 0
    resumable: bool = False
    stream: ResumableStream | None = None
    spare: bool = False
    named: str = ""  # the model's own name in the body
    lookup: Lookup = no_value
    session: str = ""
    chosen: Chosen | None = None
    method: str = "POST"
    faults_from: int = _SERVER_FAULTS  # answers with such a status, or a higher one, count against the replica

    @property
    def yields(self) -> bool:
        """Of the class batch: replicas let it wait for others, so its times and its silence say nothing of them."""
        return self.headers.get(CLASS_HEADER) == BATCH_CLASS

    def asked(self) -> tuple[bytes, dict[str, str]]:
        """Body and headers for the next replica."""
        if not self.resumable:
            return self.body, self.headers
        begun = self.stream.body(self.body) if self.stream is not None else None
        if begun is None:
            return self.body, {**self.headers, resume.HEADER: resume.TELL}
        return begun, {**self.headers, resume.HEADER: resume.CONTINUE}


class TargetLeft(Unavailable):
    """No replica of a model answered, and another model may be asked. `full`: because they have no room."""

    def __init__(self, error: MeshError, *, full: bool) -> None:
        super().__init__(error.message)
        self.full = full


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why an attempt was none. `sent`: the replica may have begun to compute; `broke`: it has begun a stream."""

    reason: str
    sent: bool = False
    broke: bool = False
    full: bool = False


class Through(Protocol):
    """Another way to a replica than a connection to it."""

    async def forwarded(self, request: Request, wire: Wire) -> bool:
        """True when it has answered the client; False: the request does not go this way. Raises as `forward` does."""
        ...


class Forwarder:
    """Belongs to one event loop. `client` is its owner's to close."""

    def __init__(
        self,
        client: HttpClient,
        follower: Following,
        upstreams: Upstreams,
        splits: Splits,
        instruments: Instruments,
        *,
        hold_s: float,
        max_attempts: int,
        through: Through,
    ) -> None:
        """`through` is asked first."""
        self._through = through
        self._splits = splits
        self._client = client
        self._follower = follower
        self._upstreams = upstreams
        self._instruments = instruments
        self._hold_s = hold_s
        self._max_attempts = max_attempts
        self._kept_bytes = 0
        self.held = 0  # requests that wait for a replica

    async def forward(self, request: Request, wire: Wire) -> None:
        """Answers the client, also with a replica's error.

        A stream that breaks off in its middle is continued on another replica where `resumable` says so and the
        replica can; else it ends with an error event. Raises `Unavailable` when no replica answered, `Internal`
        when nobody continued, `Broken` when another answer broke off: the connection must be closed then.
        `TargetLeft` instead of the first, and of answers that say that a replica is full or leaves, with `spare`.
        """
        if await self._through.forwarded(request, wire):
            return
        size = len(request.body)
        request.resumable = request.resumable and self._kept_bytes + size <= _KEPT_BYTES
        kept = size if request.resumable else 0
        self._kept_bytes += kept
        try:
            await self._forward(request, wire)
        finally:
            self._kept_bytes -= kept

    async def _forward(self, request: Request, wire: Wire) -> None:
        self._upstreams.budget(request.key).request()
        request.until = time.monotonic() + (0.0 if request.spare else self._hold_s)
        while True:
            work = await self._pick(request)
            upstream = work.upstream
            request.tried.add(upstream.key)
            request.attempts += 1
            failure = await self._attempt(request, work, wire)
            if failure is None:
                return
            _LOG.warning("a replica did not answer", extra={"replica": str(upstream), "reason": failure.reason})
            if not self._may_retry(request, failure):
                raise _nobody(request, full=failure.full)
            if failure.sent and not self._has_another(request):
                request.tried.discard(upstream.key)  # a connection may break without fault of the only replica
            self._instruments.retries.inc()

    async def choose_sides(self, request: Request) -> Chosen:
        """Where its application's splits have it belong. Raises `StoreUnavailable` while these were never read."""
        request.chosen = await self._splits.choose(request.key, request.lookup, request.session, request.chosen)
        return request.chosen

    async def _pick(self, request: Request) -> Work:
        """The request on a replica; waits for one as long as requests are held. Raises `Unavailable`."""
        while True:
            offer = self._follower.catalog.get(request.key)
            if offer is not None:
                chosen = await self.choose_sides(request)
                balance, demand = self._upstreams.balance, request.demand
                wanted = balance.wanted(offer, demand)
                found = self._upstreams.pick(offer, _barred(request, offer), demand, chosen, wanted=wanted)
                if found is not None:
                    if chosen.sides:
                        spared = chosen.place(found.endpoint) is Place.SPARE
                        self._instruments.on_side(str(chosen.app), chosen.sides, spared=spared)
                    return balance.work(found, offer, demand, wanted)
            left = request.until - time.monotonic()
            if left <= 0:
                raise _nobody(request)
            self.held += 1
            try:
                await wait_for(self._follower.wait_change(), left)
            except asyncio.TimeoutError:
                raise _nobody(request) from None
            finally:
                self.held -= 1

    def _may_retry(self, request: Request, failure: _Failure) -> bool:
        if failure.broke and request.stream is not None:
            if not request.stream.may_resume():
                return False
            request.attempts = request.resent = 0  # it has come further: what was tried before does not count
            request.until = time.monotonic() + self._hold_s
        elif failure.sent:
            request.resent += 1
        if request.resent > _RESENT:
            request.spare = False  # nor by replicas of another model
        if request.attempts >= self._max_attempts or request.resent > _RESENT:
            return False
        if request.spare and not self._has_another(request):
            return False  # nothing is paid for asking another model
        return self._upstreams.budget(request.key).try_spend(time.monotonic())

    def _has_another(self, request: Request, *, spare: bool = True) -> bool:
        """True when there is a replica that was not asked yet; without `spare` one of the request's own sides."""
        offer = self._follower.catalog.get(request.key)
        if offer is None:
            return False
        return self._upstreams.pick(offer, _barred(request, offer), chosen=request.chosen, spare=spare) is not None

    def _may_ask_another(self, request: Request, *, spare: bool) -> bool:
        may = (
            request.attempts < self._max_attempts and self._upstreams.budget(request.key).left(time.monotonic()) >= 1.0
        )
        return may and self._has_another(request, spare=spare)

    async def _attempt(self, request: Request, work: Work, wire: Wire) -> _Failure | None:
        """None when the client has been answered, else why it was not. Raises when that cannot be mended."""
        upstream = work.upstream
        with work:
            began = time.monotonic()
            body, headers = request.asked()
            try:
                response = await self._client.request(request.method, upstream.url, request.path, headers, body)
            except NotConnected as error:
                return self._unreachable(upstream, error)
            except Broke as error:
                self._lost(request, upstream, error)
                return _Failure(str(error), sent=True)
            try:
                refusal = await self._judged(request, work, response, time.monotonic() - began)
                if refusal is not None:
                    return refusal
                if request.usage is not None:
                    request.usage.begin(response.status, response.headers)
                told = response.status == _OK and response.headers.get(resume.HEADER) == resume.TOLD
                if request.resumable and told:
                    return await self._pass_steps(request, work, response, wire)
                if request.stream is not None:
                    return _Failure(f"it answered {response.status} when it was asked to continue")
                request.body = b""  # it is not sent again, and the answer may take long
                await self._pass_on(request, work, response, wire)
            finally:
                response.close()
        return None

    def _lost(self, request: Request, upstream: Upstream, why: BaseException | None) -> None:
        if not (request.yields and isinstance(why, Silent)):
            self._upstreams.lost(upstream)

    def _unreachable(self, upstream: Upstream, error: NotConnected) -> _Failure:
        """Nothing was sent. Whatever this process lacks (descriptors, memory) is no fault of the replica."""
        if isinstance(error.cause, ConnectionRefusedError):
            self._upstreams.lost(upstream)
            self._follower.refused(upstream.endpoint)
        elif isinstance(error.cause, TimeoutError | ConnectionError | ssl.SSLError):
            self._upstreams.lost(upstream)
        return _Failure(str(error))

    async def _judged(self, request: Request, work: Work, response: Answer, first_byte_s: float) -> _Failure | None:
        """Notes what its status says of the replica; a failure when another replica is to be asked instead."""
        upstream, status = work.upstream, response.status
        if status == _FULL and request.yields:
            pass  # of the lowest class: for others it may have room
        elif status == _FULL:
            self._upstreams.full(upstream, _rest_s(response.headers))
        elif status >= request.faults_from and status != _TIMED_OUT:
            self._upstreams.failed(upstream)
        else:
            timed = status < _CLIENT_FAULTS and not request.yields
            self._upstreams.succeeded(upstream, first_byte_s if timed else None)
            if not request.yields:
                self._instruments.first_byte.observe(first_byte_s)
            if status < _CLIENT_FAULTS:
                work.answered(response.headers)
        # While the replicas of its side have no room, no other side gets the request.
        if status in (_FULL, _AWAY) and (request.spare or self._may_ask_another(request, spare=status != _FULL)):
            with contextlib.suppress(RequestFailed, asyncio.TimeoutError):
                await wait_for(response.read(), _REFUSAL_S)  # so that the connection can be used again
            return _Failure(f"it answered {status}", full=status == _FULL)
        return None

    async def _pass_steps(self, request: Request, work: Work, response: Answer, wire: Wire) -> _Failure | None:
        """A stream, or what follows of one."""
        upstream = work.upstream
        fresh = request.stream is None
        if request.stream is None:
            request.stream = ResumableStream(_answers_as(upstream.endpoint))
            request.spare = False  # what has begun is the client's
            request.recorder.begin(response.status, response.headers, upstream.endpoint)
            wire.add_header(ANSWERED_BY, str(request.key))
            await wire.begin(response.status, forwarded_headers(response.headers.raw))
        else:
            self._instruments.resumed.inc()
            _LOG.info("a stream goes on", extra={"replica": str(upstream)})
        try:
            await pass_steps(response, wire, request.stream, work.meter, request.usage, request.recorder.add)
            request.recorder.end()
            work.whole = fresh
        except Broken as error:
            self._broke_off(request, upstream, error)
            return _Failure("it broke off its answer", sent=True, broke=True)
        return None

    def _broke_off(self, request: Request, upstream: Upstream, error: Broken) -> None:
        self._lost(request, upstream, error.__cause__)
        self._instruments.broken.inc()
        _LOG.warning("an answer broke off", extra={"replica": str(upstream), "reason": str(error.__cause__)})

    async def _pass_on(self, request: Request, work: Work, response: Answer, wire: Wire) -> None:
        wire.add_header(ANSWERED_BY, str(request.key))
        request.recorder.begin(response.status, response.headers, work.upstream.endpoint)
        await wire.begin(response.status, forwarded_headers(response.headers.raw))
        try:
            await pass_on(response, wire, work.meter, request.usage, request.recorder.add)
            request.recorder.end()
            work.whole = True
        except Broken as error:
            self._broke_off(request, work.upstream, error)
            if not error.told:
                raise


def _barred(request: Request, offer: Offer) -> set[UpstreamKey]:
    """Those that are not to be asked: for the rest of a stream, all that may answer something else."""
    if request.stream is None:
        return request.tried
    made_by = request.stream.made_by
    return request.tried | {upstream_key(one) for one in offer.endpoints if _answers_as(one) != made_by}


def _answers_as(endpoint: pb.Endpoint) -> tuple[str, int]:
    """Equal for replicas of one revision whose answers are the same: of one deployment, or of the same weights."""
    return endpoint.content or endpoint.deployment, endpoint.revision


def _nobody(request: Request, *, full: bool = False) -> MeshError:
    if request.stream is not None:
        return Internal("the replica broke off its answer, and no other one could continue it")
    if request.tried:
        error = Unavailable(f"no replica of the model `{request.key.model}` answered; try again later")
    else:
        error = Unavailable(f"the model `{request.key.model}` has no replica that takes requests now; try again later")
    return TargetLeft(error, full=full) if request.spare else error


def _rest_s(headers: Mapping[str, str]) -> float:
    said = headers.get("retry-after", "")
    return min(float(said), _LONGEST_REST_S) if said.isdigit() else _REST_S
