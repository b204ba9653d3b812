"""Many records of etcd, read beside the event loop: ten thousand take a second."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from serving.store.types import KeyValue

T = TypeVar("T")
_AT_ONCE: Final = 32  # records, which take some milliseconds
_READER: Final = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mesh-records")  # its thread begins with use


async def read_apart(read: Callable[[Sequence[KeyValue]], T], kvs: Sequence[KeyValue]) -> T:
    """What `read` makes of them. Raises what it raises."""
    if len(kvs) <= _AT_ONCE:
        return read(kvs)
    return await asyncio.get_running_loop().run_in_executor(_READER, read, kvs)
