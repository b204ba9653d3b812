"""Sends callbacks over HTTP. Belongs to one event loop.

Each connection's own address is looked at, after names were resolved: a name that means another address later, or one
address of several, gets no further. Redirects are not followed, proxies of the environment are not used, and of an
answer only its head is read.
"""

from __future__ import annotations

import asyncio
import errno
import math
import socket
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from serving.broker.callbacks.policy import AddressRule
from serving.broker.callbacks.settings import CallbackSettings

_RESOLVERS: Final = 8  # threads of their own: names that hang must not hold up the broker's
_KEPT_S: Final = 2.0  # shorter than servers keep connections: a POST on one that they close has failed
_REFUSED: Final = "its address is not public, nor among broker.callbacks.networks"
_AGENT: Final = "serving-mesh-broker"


@dataclass(frozen=True, slots=True)
class Answer:
    """`status` 0: there was none, and `reason` says why. `retry_after_s` as the receiver asked; 0: it did not."""

    status: int
    reason: str = ""
    retry_after_s: float = 0.0


class Sender:
    """From its first `post` to `close`."""

    def __init__(self, settings: CallbackSettings) -> None:
        self._settings = settings
        self._rule = AddressRule(settings)
        self._session: aiohttp.ClientSession | None = None

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """One try, within `timeout_s`. What goes wrong is in the answer."""
        try:
            async with self._open().post(url, data=body, headers=dict(headers), allow_redirects=False) as response:
                return Answer(response.status, _reason(response.status), _retry_after_s(response.headers))
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError, ValueError) as error:
            return Answer(0, self._why(error))

    async def close(self) -> None:
        """May be repeated."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                limit=self._settings.concurrency, resolver=_Resolver(), keepalive_timeout=_KEPT_S,
                socket_factory=self._socket,
            )  # fmt: skip
            self._session = aiohttp.ClientSession(
                connector=connector, timeout=aiohttp.ClientTimeout(total=self._settings.timeout_s),
                cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False, trust_env=False,
                headers={"User-Agent": _AGENT, "Content-Type": "application/json"},
            )  # fmt: skip
        return self._session

    def _socket(self, info: tuple[Any, ...]) -> socket.socket:
        """For a connection to this address. Raises `OSError` for one that must not be called."""
        family, kind, protocol, _, address = info
        if not self._rule.allows_text(str(address[0])):
            raise OSError(errno.EACCES, _REFUSED)
        return socket.socket(family=family, type=kind, proto=protocol)

    def _why(self, error: Exception) -> str:
        """Without addresses, which are not for those who submit."""
        if _REFUSED in str(error):
            return _REFUSED
        if isinstance(error, asyncio.TimeoutError):
            return f"no answer within {self._settings.timeout_s:g} s"
        if isinstance(error, aiohttp.ClientConnectorDNSError):
            return "its name has no address"
        if isinstance(error, aiohttp.ClientSSLError):
            return "its certificate is not trusted, or TLS failed otherwise"
        if isinstance(error, aiohttp.ClientConnectorError):
            return "no connection"
        if isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError | OSError):
            return "the connection ended before an answer"
        return f"no answer of HTTP: {type(error).__name__}"


class _Resolver(AbstractResolver):
    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_RESOLVERS, thread_name_prefix="callback-names")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Raises `OSError`."""
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(
            self._threads, lambda: socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
        )
        flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        return [
            ResolveResult(hostname=host, host=str(address[0]), port=port, family=kind, proto=protocol, flags=flags)
            for kind, _, protocol, _, address in found
        ]

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def _reason(status: int) -> str:
    if 200 <= status < 300:
        return ""
    if 300 <= status < 400:
        return f"answered with {status}: redirects are not followed"
    return f"answered with {status}"


def _retry_after_s(headers: Mapping[str, str]) -> float:
    """RFC 9110, 10.2.3: seconds, or a date. 0 for what is neither."""
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:12])
    try:
        seconds = parsedate_to_datetime(text).timestamp() - time.time()
    except (TypeError, ValueError, OverflowError):
        return 0.0
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0
