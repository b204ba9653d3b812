"""`/v1/files`: what becomes of each request."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from typing import BinaryIO, Final

from serving._proto import batch_pb2 as pb
from serving.batch.store.content import StorageFull
from serving.batch.store.files import INPUT, file_record, new_file_id
from serving.errors import MeshError
from serving.gateway.batch.asking import idempotency_key, namespace_of
from serving.gateway.batch.forms import Form, read_form
from serving.gateway.batch.objects import file_object, page_limit, page_of
from serving.gateway.batch.parts import BatchParts
from serving.gateway.queued.asker import Asker
from serving.gateway.queued.query import fields
from serving.openai.errors import BodyTooLarge, InvalidRequest
from serving.store.types import OutcomeUnknown
from serving.timeouts import unbroken

_PAGE: Final = 10_000
_PIECE: Final = 256 << 10
_RANGE: Final = re.compile(r"bytes=([0-9]{1,18})-([0-9]{0,18})")


class RangeNotSatisfiable(InvalidRequest):
    """It begins behind the end of the file."""

    http_status = 416


class FileRequests:
    """Belongs to one event loop. Its methods raise errors, which become OpenAI's error objects."""

    def __init__(self, parts: BatchParts) -> None:
        self._parts = parts

    async def create(self, asker: Asker) -> None:
        fields(asker.scope, ())
        namespace, key = namespace_of(asker), idempotency_key(asker)
        file_id = _id_of(namespace, key) if key else new_file_id()
        parts = self._parts
        with parts.uploading(namespace):
            async with asker.admitted(0):
                try:
                    await parts.files.check_room(namespace, file_id, time.time())  # before all of it is sent
                    record, repeated = await self._received(asker, namespace, file_id)
                except StorageFull:
                    asker.wire.add_header("x-should-retry", "false")  # OpenAI's clients would send it again
                    parts.instruments.files.labels("full").inc()
                    raise
                except MeshError:
                    parts.instruments.files.labels("refused").inc()
                    raise
        parts.instruments.files.labels("repeated" if repeated else "kept").inc()
        parts.instruments.bytes.inc(0 if repeated else record.bytes)
        await asker.wire.answer(200, file_object(record))

    async def _received(self, asker: Asker, namespace: str, file_id: str) -> tuple[pb.FileRecord, bool]:
        form = await read_form(asker.wire, self._parts.content, self._parts.limits.max_file_bytes)
        try:
            purpose, expires_after_s = form.purpose(), form.expires_after_s(self._parts.limits.input_expires_after_s)
            if purpose == INPUT and form.writing.bytes > self._parts.limits.max_input_bytes:
                raise BodyTooLarge(self._parts.limits.max_input_bytes, "bytes of a batch's input")
        except BaseException:
            await unbroken(asyncio.to_thread(form.writing.discard))
            raise
        return await unbroken(self._kept(form, namespace, file_id, expires_after_s))

    async def _kept(self, form: Form, namespace: str, file_id: str, expires_after_s: int) -> tuple[pb.FileRecord, bool]:
        """To its end, whoever waits: content without a record would lie there for a day."""
        writing, now = form.writing, time.time()
        try:
            content = await asyncio.to_thread(writing.keep, namespace)
            record = file_record(
                namespace,
                file_id,
                content,
                filename=form.filename,
                purpose=form.purpose(),
                now=now,
                expires_after_s=expires_after_s,
            )
            made, repeated = await self._parts.files.create(record, now)
        except (OutcomeUnknown, asyncio.CancelledError):  # a record may name it: without one, the content is swept
            raise
        except BaseException:
            await asyncio.to_thread(writing.discard)
            raise
        if made.uri != content.uri:
            await asyncio.to_thread(writing.discard)
        return made, repeated

    async def list(self, asker: Asker) -> None:
        query = fields(asker.scope, ("after", "limit", "order", "purpose"))
        limit, order = page_limit(query.get("limit"), default=_PAGE, most=_PAGE), query.get("order", "desc")
        if order not in ("asc", "desc"):
            raise InvalidRequest(
                f"`order`: asc or desc is wanted, found {order[:40]!r}", param="order", error_code="invalid_value"
            )
        found = await self._parts.files.of_namespace(namespace_of(asker), time.time())
        if "purpose" in query:
            found = [one for one in found if one.purpose == query["purpose"]]
        if order == "asc":
            found.reverse()
        page, more = page_of(found, lambda one: one.id, after=query.get("after", ""), limit=limit)
        first, last = (page[0].id, page[-1].id) if page else (None, None)
        data = [file_object(one) for one in page]
        await asker.wire.answer(
            200, {"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": more}
        )

    async def get(self, file_id: str, asker: Asker) -> None:
        fields(asker.scope, ())
        await asker.wire.answer(200, file_object(await self._record(file_id, asker)))

    async def delete(self, file_id: str, asker: Asker) -> None:
        fields(asker.scope, ())
        await self._parts.files.delete(namespace_of(asker), file_id, time.time())
        await asker.wire.answer(200, {"id": file_id, "object": "file", "deleted": True})

    async def content(self, file_id: str, asker: Asker) -> None:
        """All of it, or one range of bytes (RFC 9110, section 14), so that a cut download can go on."""
        fields(asker.scope, ())
        record, wire = await self._record(file_id, asker), asker.wire
        begin, end = _range_of(wire.header(b"range"), record.bytes)
        partial = (begin, end) != (0, record.bytes)
        headers = [
            (b"content-type", b"application/octet-stream"),
            (b"content-length", str(end - begin).encode()),
            (b"accept-ranges", b"bytes"),
            (b"etag", f'"{record.digest}"'.encode()),
        ]
        if partial:
            headers.append((b"content-range", f"bytes {begin}-{end - 1}/{record.bytes}".encode()))
        opened = await unbroken(asyncio.to_thread(self._parts.content.open, record.uri, record.bytes), _close)
        try:
            await asyncio.to_thread(opened.seek, begin)
            await wire.begin(206 if partial else 200, headers)
            left = end - begin
            while left:
                piece = await unbroken(asyncio.to_thread(opened.read, min(_PIECE, left)))
                if not piece:
                    wire.abort()  # somebody has cut the file: the client must see that its answer is not whole
                    return
                left -= len(piece)
                await wire.send(piece)
            await wire.end()
        finally:
            await _close(opened)

    async def _record(self, file_id: str, asker: Asker) -> pb.FileRecord:
        return await self._parts.files.get(namespace_of(asker), file_id, time.time())


async def _close(opened: BinaryIO) -> None:
    await unbroken(asyncio.to_thread(opened.close))


def _id_of(namespace: str, key: str) -> str:
    """The same for whoever asks again."""
    return f"file-{hashlib.sha256(f'file {namespace} {key}'.encode()).hexdigest()[:32]}"


def _range_of(text: str, size: int) -> tuple[int, int]:
    """The first byte, and the one behind the last. What is no single range from a beginning is not followed.

    Raises `RangeNotSatisfiable`.
    """
    found = _RANGE.fullmatch(text)
    if found is None:
        return 0, size
    begin = int(found[1])
    last = int(found[2]) if found[2] else size - 1
    if last < begin and found[2]:
        return 0, size
    if begin >= size:
        raise RangeNotSatisfiable(f"the file has {size} bytes; the range begins at {begin}", error_code="invalid_range")
    return begin, min(last + 1, size)
