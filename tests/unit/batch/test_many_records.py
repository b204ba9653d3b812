"""Many records are read beside the event loop, a few on it."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from serving.batch.store.files import read_files
from serving.batch.store.reading import read_apart
from serving.store.types import KeyValue


def records(count: int) -> list[KeyValue]:
    return [KeyValue(f"/k{n}", b"{}", 1, 1, 1, 0) for n in range(count)]


@pytest.mark.parametrize(("count", "apart"), [(3, False), (1000, True)])
async def test_many_are_read_on_another_thread(count: int, apart: bool) -> None:
    def read(kvs: Sequence[KeyValue]) -> tuple[int, int]:
        return len(kvs), threading.get_ident()

    read_count, thread = await read_apart(read, records(count))
    assert (read_count, thread != threading.get_ident()) == (count, apart)


async def test_what_is_damaged_is_left_out_wherever_it_is_read() -> None:
    for count in (3, 1000):
        assert await read_apart(read_files, records(count)) == {}
