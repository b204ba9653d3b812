"""Requests of commands to a gateway, over HTTP: its address, the key, what is tried again, files there and back."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import json
import os
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, TypeVar
from urllib.parse import quote, urlsplit

import aiohttp

from serving.errors import DataLoss, FailedPrecondition, InvalidArgument, Unavailable
from serving.openai.errors import error_of_answer

T = TypeVar("T")
FILES: Final = "/v1/files"
BATCHES: Final = "/v1/batches"
_ERRORS: Final = 400
_CONNECT_S: Final = 10.0
_SILENCE_S: Final = 120.0
_LEAST_RATE: Final = 16 << 10  # bytes per second of an upload
_ATTEMPTS: Final = 5
_PAUSE_S: Final = 0.25  # doubles with each attempt
_DIGEST: Final = re.compile(r'(?:W/)?"sha256:([0-9a-f]{64})"')  # as gateways' etags have it
_PIECE: Final = 256 << 10
_BROKEN: Final = (aiohttp.ClientError, asyncio.TimeoutError, ConnectionError)
Told = Callable[[int, int], None]  # bytes that are there, and of how many


@dataclass(frozen=True, slots=True)
class Address:
    """Of a gateway: `url` is scheme, host and port, and what a reverse proxy may have before `/v1`. `key` may be ""."""

    url: str
    key: str = field(default="", repr=False)

    @classmethod
    def of(cls, text: str, key: str = "") -> Address:
        """`http://127.0.0.1:8000`, also with `/v1`, or `127.0.0.1:8000`. Raises `InvalidArgument`."""
        url = (text if "://" in text else f"http://{text}").rstrip("/").removesuffix("/v1")
        try:
            parts = urlsplit(url)
            good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            good = False
        if not good or parts.query or parts.fragment or parts.username is not None:
            raise InvalidArgument(f"{text[:200]!r} is no address of a gateway, such as http://127.0.0.1:8000")
        if key and not (key.isascii() and key.isprintable() and " " not in key):
            raise InvalidArgument("the API key has characters that no key has; `mesh keys create` shows whole ones")
        return cls(url, key)


class Gateway:
    """A context: files and batches at one gateway. Belongs to one event loop.

    What does not arrive is sent again, with an idempotency key where it makes something, so that nothing is made twice.
    Raises the errors that the gateway's answers stand for, `Unavailable` where nobody answers.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        headers = {"accept-encoding": "identity"}  # files are compared with their digests as they come
        if address.key:
            headers["authorization"] = f"Bearer {address.key}"
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_SILENCE_S)
        self._session = aiohttp.ClientSession(headers=headers, timeout=timeout)

    async def __aenter__(self) -> Gateway:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    # ------------------------------------------------------------------------------------------------ batches

    async def create_batch(self, wish: Mapping[str, Any], *, key: str = "") -> dict[str, Any]:
        """`wish` as OpenAI's API takes it. The same `key` again gives the batch that was made with it."""
        return await self._ask("POST", BATCHES, "batch", body=wish, key=key or secrets.token_hex(16))

    async def batch(self, batch_id: str) -> dict[str, Any]:
        return await self._ask("GET", f"{BATCHES}/{quote(batch_id, safe='')}", "batch")

    async def cancel_batch(self, batch_id: str) -> dict[str, Any]:
        return await self._ask("POST", f"{BATCHES}/{quote(batch_id, safe='')}/cancel", "batch")

    async def batches(self, limit: int) -> AsyncIterator[dict[str, Any]]:
        """The newest first."""
        after, left = "", limit
        while left > 0:
            query = f"?limit={min(left, 100)}" + (f"&after={after}" if after else "")
            page = await self._ask("GET", f"{BATCHES}{query}", "list")
            for one in page["data"]:
                yield one
            left -= len(page["data"])
            after = page["last_id"] or ""
            if not page["has_more"] or not after:
                return

    # ------------------------------------------------------------------------------------------------ files

    async def send_file(self, path: Path, name: str, *, key: str = "", told: Told | None = None) -> dict[str, Any]:
        """The input of a batch, from disk as it is sent."""
        url, headers = f"{self._address.url}{FILES}", {"idempotency-key": key or secrets.token_hex(16)}

        async def attempt() -> dict[str, Any]:
            with _opened(path, told) as file:
                limit_s = _SILENCE_S + os.fstat(file.fileno()).st_size / _LEAST_RATE
                timeout = aiohttp.ClientTimeout(total=limit_s, sock_connect=_CONNECT_S)
                form = aiohttp.FormData({"purpose": "batch"}, quote_fields=False)
                form.add_field("file", file, filename=name, content_type="application/jsonl")
                async with self._session.post(url, data=form, headers=headers, timeout=timeout) as answer:
                    return await _object(answer, "file")

        return await self._patiently(attempt)

    async def fetch_file(self, file_id: str, target: Path, *, told: Told | None = None) -> int:
        """To disk as it comes, under its name when all of it is there; a connection that breaks is taken up again.

        Returns its bytes. Raises `DataLoss` where they are not those that the gateway keeps, `FailedPrecondition` where
        they cannot be written.
        """
        beside = target.with_name(f".{target.name[:100]}.{secrets.token_hex(8)}.part")
        try:
            with beside.open("xb") as file:
                fetching = _Fetching(self._session, f"{self._address.url}{FILES}/{quote(file_id, safe='')}/content")
                await fetching.into(file, self._patiently, told)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(target)
        except OSError as error:
            raise FailedPrecondition(f"{target} cannot be written: {error.strerror or error}") from error
        finally:
            with contextlib.suppress(OSError):  # its folder may be what is wrong
                beside.unlink()
        return fetching.bytes

    async def _ask(
        self, method: str, path: str, kind: str, *, body: Mapping[str, Any] | None = None, key: str = ""
    ) -> dict[str, Any]:
        async def attempt() -> dict[str, Any]:
            headers = {"idempotency-key": key} if key else {}
            async with self._session.request(method, self._address.url + path, json=body, headers=headers) as answer:
                return await _object(answer, kind)

        return await self._patiently(attempt)

    async def _patiently(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Again where nobody answered. What a gateway refuses is refused."""
        error = Unavailable("")
        for number in range(_ATTEMPTS):
            if number:
                await asyncio.sleep(_PAUSE_S * 2 ** (number - 1))
            try:
                return await attempt()
            except Unavailable as refused:
                error = refused
            except _BROKEN as broken:
                why = str(broken) or type(broken).__name__
                error = Unavailable(f"the gateway {self._address.url} does not answer: {why}")
        raise error


class _Fetching:
    """A file on its way. It goes on behind what is there, as long as the gateway's etag says that it is the same."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url
        self._digest = hashlib.sha256()
        self._etag = ""
        self._total: int | None = None
        self.bytes = 0

    async def into(
        self, file: BinaryIO, patiently: Callable[[Callable[[], Awaitable[bool]]], Awaitable[bool]], told: Told | None
    ) -> None:
        while not await patiently(lambda: self._more(file, told)):  # what has come on is worth new attempts
            pass
        wanted = _DIGEST.fullmatch(self._etag)
        cut = self._total is not None and self.bytes != self._total
        if cut or (wanted is not None and self._digest.hexdigest() != wanted[1]):
            raise DataLoss(f"{self._url}: {self.bytes} bytes came that are not those of the file; ask again")

    async def _more(self, file: BinaryIO, told: Told | None) -> bool:
        """False: it broke behind something new."""
        begin = self.bytes
        headers = {"range": f"bytes={begin}-"} if begin else {}
        async with self._session.get(self._url, headers=headers) as answer:
            if answer.status >= _ERRORS:
                raise error_of_answer(answer.status, await answer.read())
            if begin and (answer.status != 206 or answer.headers.get("etag", "") != self._etag):
                raise DataLoss(f"{self._url}: the file has changed while it was fetched; ask again")
            self._etag = answer.headers.get("etag", "")
            self._total = None if answer.content_length is None else begin + answer.content_length
            try:
                async for piece in answer.content.iter_chunked(_PIECE):
                    file.write(piece)
                    self._digest.update(piece)
                    self.bytes += len(piece)
                    if told is not None:
                        told(self.bytes, self._total or 0)
            except _BROKEN:
                if self.bytes == begin:
                    raise
                return False
        return True


class _Counted(io.BufferedReader):
    """A file that tells how much of it was read."""

    def __init__(self, path: Path, told: Told) -> None:
        super().__init__(io.FileIO(path), _PIECE)
        self._told = told
        self._total = path.stat().st_size

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self._told(self.tell(), self._total)
        return data


@contextlib.contextmanager
def _opened(path: Path, told: Told | None) -> Iterator[BinaryIO]:
    try:
        with _Counted(path, told) if told is not None else path.open("rb") as file:
            yield file
    except OSError as error:
        if isinstance(error, _BROKEN):
            raise
        raise FailedPrecondition(f"{path} cannot be read: {error.strerror or error}") from error


async def _object(answer: aiohttp.ClientResponse, kind: str) -> dict[str, Any]:
    """The body of an answer, of OpenAI's objects one of that kind. Raises what it stands for."""
    data = await answer.read()
    if answer.status >= _ERRORS:
        raise error_of_answer(answer.status, data)
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or found.get("object") != kind:
        raise FailedPrecondition(f"{answer.url}: what answers there is no gateway; say where it is with --gateway")
    return found
