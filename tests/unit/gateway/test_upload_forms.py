"""How an upload's form is read, where a clock is needed that a real gateway has not."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from serving.batch.store.content import ContentStore
from serving.gateway.batch.forms import UploadTooSlow, read_form
from serving.wire import Wire

HEAD = b'--xyz\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'


def wire_of(pieces: list[bytes]) -> Wire:
    left = iter(pieces)

    async def receive() -> Any:
        return {"type": "http.request", "body": next(left), "more_body": True}

    async def send(_message: Any) -> None:
        raise AssertionError("nothing is answered here")

    scope = {"type": "http", "headers": [(b"content-type", b"multipart/form-data; boundary=xyz")]}
    return Wire(scope, receive, send, replica="", write_timeout_s=1)


@pytest.mark.parametrize(("piece_bytes", "ends"), [(200_000, False), (100_000, True)])
async def test_an_upload_must_come_at_some_rate(tmp_path: Path, piece_bytes: int, ends: bool) -> None:
    content = ContentStore(str(tmp_path))
    content.start()
    clock = itertools.count(0.0, 10.0)  # a piece every ten seconds
    wire = wire_of([HEAD] + [b"x" * piece_bytes] * 20)
    with pytest.raises(UploadTooSlow if ends else RuntimeError):  # the pieces are used up
        await read_form(wire, content, 1 << 30, monotonic=lambda: next(clock))
    assert content.sweep_uploads(before=float("inf")) == 0
