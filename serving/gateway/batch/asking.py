"""Whose files and batches a request is about, and whether it was sent before. Pure."""

from __future__ import annotations

import re
from typing import Final

from serving.gateway.queued.asker import Asker
from serving.gateway.queued.options import KEY
from serving.openai.errors import InvalidRequest
from serving.types import DEFAULT_NAMESPACE

_KEY: Final = re.compile(r"[!-~]{1,256}")
FILE_ID: Final = re.compile(r"file-[0-9a-f]{32}")
BATCH_ID: Final = re.compile(r"batch_[0-9a-f]{32}")


def namespace_of(asker: Asker) -> str:
    """The tenant of its key; all who need no key are one."""
    return asker.call.tenant or DEFAULT_NAMESPACE


def idempotency_key(asker: Asker) -> str:
    """Empty: none was given. Raises `InvalidRequest`."""
    key = asker.wire.header(KEY.encode())
    if key and not _KEY.fullmatch(key):
        raise InvalidRequest(
            f"the header `{KEY}`: 1 to 256 printable characters are wanted", param=KEY, error_code="invalid_value"
        )
    return key
