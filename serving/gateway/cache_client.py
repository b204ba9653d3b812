"""The gateway's side of the conversation with a semantic cache (serving/cache/app.py)."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import aiohttp

from serving._proto import records_pb2 as pb
from serving.cache import headers
from serving.errors import InvalidArgument, Unavailable
from serving.gateway.passing import forwarded_headers
from serving.timeouts import wait_for

_LOG: Final = logging.getLogger(__name__)
_FIRST_REST_S: Final = 1.0
_LONGEST_REST_S: Final = 30.0
_HIT_BYTES: Final = 32 << 20
_FAILURES: Final = (aiohttp.ClientError, asyncio.TimeoutError, OSError, Unavailable)


@dataclass(frozen=True, slots=True)
class Found:
    """A stored answer, as the client wants it."""

    head: list[tuple[bytes, bytes]]
    body: bytes
    tier: str


@dataclass(slots=True)
class Held:
    """An answer of the cache that stays open. With a `ticket` it is for us to generate, without one somebody does."""

    endpoint: pb.Endpoint
    response: aiohttp.ClientResponse
    ticket: str

    def close(self) -> None:
        """Gives up."""
        self.response.close()

    @property
    def scope(self) -> str:
        return self.response.headers.get(headers.SCOPE, "")


@dataclass(slots=True)
class _Rest:
    """Of a cache that failed: it is asked again after a while, by one request first."""

    failures: int = 0
    until: float = 0.0


class CacheClient:
    """Belongs to one event loop. The session is its owner's. No failure of a cache leaves it, but those of `remove`."""

    def __init__(self, session: aiohttp.ClientSession, *, timeout_s: float) -> None:
        """A cache that says nothing for `timeout_s` has failed."""
        self._session = session
        self._timeout_s = timeout_s
        self._rests: dict[tuple[str, str], _Rest] = {}

    def known(self, endpoints: tuple[pb.Endpoint, ...]) -> None:
        """Forgets all others."""
        there = {_key(endpoint) for endpoint in endpoints}
        self._rests = {key: rest for key, rest in self._rests.items() if key in there}

    async def ask(self, endpoint: pb.Endpoint, body: bytes, head: Mapping[str, str]) -> Found | Held | None:
        """None: generate it, and keep it for yourself. Also of a cache that fails, or has failed a moment ago."""
        rest = self._rests.get(_key(endpoint))
        if rest is not None:
            now = time.monotonic()
            if now < rest.until:
                return None
            rest.until = now + self._timeout_s  # for all others, until this one knows
        try:
            found = await self._asked(endpoint, body, head)
        except _FAILURES as error:
            self._failed(endpoint, error)
            return None
        self._rests.pop(_key(endpoint), None)
        return found

    async def _asked(self, endpoint: pb.Endpoint, body: bytes, head: Mapping[str, str]) -> Found | Held | None:
        url = f"{_url(endpoint)}/v1/cache/lookup"
        response = await wait_for(self._session.post(url, data=body, headers=head), self._timeout_s)
        held = False
        try:
            if response.status == 200:
                data = await wait_for(response.content.read(), self._timeout_s) if _fits(response) else b""
                if not data:
                    raise Unavailable("its answer is empty, or too large")
                return Found(forwarded_headers(response.raw_headers), data, response.headers.get(headers.CACHE, ""))
            if response.status == 202:
                held = True
                return Held(endpoint, response, response.headers.get(headers.TICKET, ""))
            if response.status != 204:
                raise Unavailable(f"it answered {response.status}")
            return None
        finally:
            if not held:
                response.release()

    async def followed(self, held: Held) -> bool:
        """Waits until the other's generation has ended. True: ask again."""
        last = b""
        try:
            while part := await wait_for(held.response.content.readany(), self._timeout_s):
                last = (last + part)[-len(headers.GENERATE) :].strip()
            return last == headers.AGAIN
        except _FAILURES as error:
            self._failed(held.endpoint, error)
            return False
        finally:
            held.response.release()

    async def settle(self, held: Held, data: bytes, media_type: str, revision: str) -> bool:
        """Puts the generated answer. False when it is not kept."""
        head = {"content-type": media_type, headers.REVISION: revision}
        url = f"{_url(held.endpoint)}/v1/cache/tickets/{held.ticket}"
        return await self._ended(held, "PUT", url, data, head)

    async def give_back(self, held: Held) -> None:
        """There is no answer that others may have."""
        await self._ended(held, "DELETE", f"{_url(held.endpoint)}/v1/cache/tickets/{held.ticket}", b"", {})

    async def _ended(self, held: Held, method: str, url: str, data: bytes, head: Mapping[str, str]) -> bool:
        try:
            request = self._session.request(method, url, data=data, headers=head)
            async with await wait_for(request, self._timeout_s) as response:
                answer = await wait_for(response.json(), self._timeout_s)
            await wait_for(held.response.content.read(), self._timeout_s)  # to its end, for another request
            held.response.release()
            return bool(answer.get("kept")) if isinstance(answer, dict) else False
        except (*_FAILURES, ValueError) as error:
            self._failed(held.endpoint, error)
            held.close()
            return False

    async def remove(self, endpoint: pb.Endpoint, wanted: Mapping[str, str], tenant: str) -> int:
        """Removes answers of that tenant. Raises `Unavailable`, and `InvalidArgument` for what cannot be wanted."""
        url, head = f"{_url(endpoint)}/v1/cache", {headers.TENANT: tenant}
        try:
            request = self._session.delete(url, params=wanted, headers=head)
            async with await wait_for(request, self._timeout_s) as response:
                answer = json.loads(await wait_for(response.read(), self._timeout_s))
                status = response.status
        except (*_FAILURES, ValueError) as error:
            raise Unavailable(f"the semantic cache of {endpoint.application} did not answer: {error}") from error
        if status == 400:
            raise InvalidArgument(str(answer["error"]["message"]))
        if status != 200:
            raise Unavailable(f"the semantic cache of {endpoint.application} answered {status}")
        return int(answer["removed"])

    def _failed(self, endpoint: pb.Endpoint, error: BaseException) -> None:
        rest = self._rests.setdefault(_key(endpoint), _Rest())
        rest.until = time.monotonic() + min(_FIRST_REST_S * 2**rest.failures, _LONGEST_REST_S)
        rest.failures = min(rest.failures + 1, 10)
        cache, reason = f"{endpoint.id} at {endpoint.address}", f"{type(error).__name__}: {error}"
        _LOG.warning("a semantic cache failed", extra={"cache": cache, "reason": reason})


def _key(endpoint: pb.Endpoint) -> tuple[str, str]:
    return endpoint.id, endpoint.address


def _url(endpoint: pb.Endpoint) -> str:
    return f"{'https' if endpoint.tls else 'http'}://{endpoint.address}"


def _fits(response: aiohttp.ClientResponse) -> bool:
    return response.content_length is None or response.content_length <= _HIT_BYTES
