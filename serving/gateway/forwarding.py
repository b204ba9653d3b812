"""One request from a client to a replica and its answer back, byte for byte; elsewhere when the replica fails first."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import aiohttp
from yarl import URL

from serving.errors import MeshError, Unavailable
from serving.gateway.catalog import ModelKey
from serving.gateway.follower import Following
from serving.gateway.instruments import Instruments
from serving.gateway.passing import Broken, forwarded_headers, pass_on
from serving.gateway.upstreams import Upstream, UpstreamKey, Upstreams
from serving.timeouts import wait_for
from serving.wire import Wire

_LOG: Final = logging.getLogger(__name__)
ANSWERED_BY: Final = "x-mesh-model"  # the full name of the model that answered
_FULL: Final = 429
_AWAY: Final = 503  # the replica leaves, or its engine has failed
_SERVER_FAULTS: Final = 500
_CLIENT_FAULTS: Final = 400
_REST_S: Final = 1.0  # of a replica that says that it is full, and not for how long
_LONGEST_REST_S: Final = 30.0
_RESENT: Final = 1  # times that a request is sent again after a replica has had it: it may be what kills replicas


@dataclass(slots=True)
class Request:
    """What is sent on. `key` is the model; `headers` are those that replicas may see.

    With `spare` another model waits to be asked: what this one's replicas cannot answer is not the client's to see.
    """

    key: ModelKey
    path: str
    body: bytes
    headers: dict[str, str]
    until: float = 0.0  # when it is not held any more
    tried: set[UpstreamKey] = field(default_factory=set)
    attempts: int = 0
    resent: int = 0
    spare: bool = False
    named: str = ""  # the model's own name in the body
    method: str = "POST"
    faults_from: int = _SERVER_FAULTS  # answers with such a status, or a higher one, count against the replica


class TargetLeft(Unavailable):
    """No replica of a model answered, and another model may be asked. `full`: because they have no room."""

    def __init__(self, error: MeshError, *, full: bool) -> None:
        super().__init__(error.message)
        self.full = full


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why an attempt was none. `sent`: the replica may have begun to compute."""

    reason: str
    sent: bool = False
    full: bool = False


class Forwarder:
    """Belongs to one event loop. `session` is its owner's to close."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        follower: Following,
        upstreams: Upstreams,
        instruments: Instruments,
        *,
        hold_s: float,
        max_attempts: int,
    ) -> None:
        self._session = session
        self._follower = follower
        self._upstreams = upstreams
        self._instruments = instruments
        self._hold_s = hold_s
        self._max_attempts = max_attempts

    async def forward(self, request: Request, wire: Wire) -> None:
        """Answers the client, also with a replica's error.

        A stream that breaks off in its middle ends with an error event. Raises `Unavailable` when no replica answered,
        `Broken` when another answer broke off: its beginning has been sent, so the connection must be closed.
        `TargetLeft` instead of the former, and of answers that say that a replica is full or leaves, with `spare`.
        """
        self._upstreams.budget(request.key).request()
        request.until = time.monotonic() + (0.0 if request.spare else self._hold_s)
        while True:
            upstream = await self._pick(request)
            request.tried.add(upstream.key)
            request.attempts += 1
            failure = await self._attempt(request, upstream, wire)
            if failure is None:
                return
            _LOG.warning("a replica did not answer", extra={"replica": str(upstream), "reason": failure.reason})
            if not self._may_retry(request, failure):
                raise _nobody(request, full=failure.full)
            if failure.sent and not self._has_another(request):
                request.tried.discard(upstream.key)  # a connection may break without fault of the only replica
            self._instruments.retries.inc()

    async def _pick(self, request: Request) -> Upstream:
        """A replica; waits for one as long as requests are held. Raises `Unavailable`."""
        while True:
            offer = self._follower.catalog.get(request.key)
            found = self._upstreams.pick(offer, request.tried) if offer is not None else None
            if found is not None:
                return found
            left = request.until - time.monotonic()
            if left <= 0:
                raise _nobody(request)
            try:
                await wait_for(self._follower.wait_change(), left)
            except asyncio.TimeoutError:
                raise _nobody(request) from None

    def _may_retry(self, request: Request, failure: _Failure) -> bool:
        if failure.sent:
            request.resent += 1
        if request.resent > _RESENT:
            request.spare = False  # nor by replicas of another model
        if request.attempts >= self._max_attempts or request.resent > _RESENT:
            return False
        if request.spare and not self._has_another(request):
            return False  # nothing is paid for asking another model
        return self._upstreams.budget(request.key).try_spend(time.monotonic())

    def _has_another(self, request: Request) -> bool:
        """True when there is a replica that was not asked yet."""
        offer = self._follower.catalog.get(request.key)
        return offer is not None and self._upstreams.pick(offer, request.tried) is not None

    def _may_ask_another(self, request: Request) -> bool:
        may = (
            request.attempts < self._max_attempts and self._upstreams.budget(request.key).left(time.monotonic()) >= 1.0
        )
        return may and self._has_another(request)

    async def _attempt(self, request: Request, upstream: Upstream, wire: Wire) -> _Failure | None:
        """None when the client has been answered, else why it was not. Raises when that cannot be mended."""
        with upstream.running():
            began = time.monotonic()
            try:
                response = await self._session.request(
                    request.method,
                    URL(upstream.url + request.path, encoded=True),
                    data=request.body or None,
                    headers=request.headers,
                    allow_redirects=False,
                )
            except aiohttp.ClientConnectorError as error:
                return self._unreachable(upstream, error)
            except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
                self._upstreams.lost(upstream)
                return _Failure(f"{type(error).__name__}: {error}", sent=True)
            try:
                refusal = await self._judged(request, upstream, response, time.monotonic() - began)
                if refusal is not None:
                    return refusal
                request.body = b""  # it is not sent again, and the answer may take long
                await self._pass_on(request.key, upstream, response, wire)
            finally:
                if response.content.at_eof():
                    response.release()
                else:
                    response.close()
        return None

    def _unreachable(self, upstream: Upstream, error: aiohttp.ClientConnectorError) -> _Failure:
        """Nothing was sent. Whatever this process lacks (descriptors, memory) is no fault of the replica."""
        if isinstance(error.os_error, ConnectionRefusedError):
            self._upstreams.lost(upstream)
            self._follower.refused(upstream.endpoint)
        elif isinstance(error.os_error, TimeoutError | ConnectionError):
            self._upstreams.lost(upstream)
        return _Failure(str(error))

    async def _judged(
        self, request: Request, upstream: Upstream, response: aiohttp.ClientResponse, first_byte_s: float
    ) -> _Failure | None:
        """Notes what its status says of the replica; a failure when another replica is to be asked instead."""
        status = response.status
        if status == _FULL:
            self._upstreams.full(upstream, _rest_s(response.headers))
        elif status >= request.faults_from:
            self._upstreams.failed(upstream)
        else:
            self._upstreams.succeeded(upstream, first_byte_s if status < _CLIENT_FAULTS else None)
            self._instruments.first_byte.observe(first_byte_s)
        if status in (_FULL, _AWAY) and (request.spare or self._may_ask_another(request)):
            await response.read()  # so that the connection can be used again
            return _Failure(f"it answered {status}", full=status == _FULL)
        return None

    async def _pass_on(self, key: ModelKey, upstream: Upstream, response: aiohttp.ClientResponse, wire: Wire) -> None:
        wire.add_header(ANSWERED_BY, str(key))
        await wire.begin(response.status, forwarded_headers(response.headers))
        try:
            await pass_on(response, wire)
        except Broken as error:
            self._upstreams.lost(upstream)
            self._instruments.broken.inc()
            _LOG.warning("an answer broke off", extra={"replica": str(upstream), "reason": str(error.__cause__)})
            if not error.told:
                raise


def _nobody(request: Request, *, full: bool = False) -> MeshError:
    if request.tried:
        error = Unavailable(f"no replica of the model `{request.key.model}` answered; try again later")
    else:
        error = Unavailable(f"the model `{request.key.model}` has no replica that takes requests now; try again later")
    return TargetLeft(error, full=full) if request.spare else error


def _rest_s(headers: Mapping[str, str]) -> float:
    said = headers.get("retry-after", "")
    return min(float(said), _LONGEST_REST_S) if said.isdigit() else _REST_S
