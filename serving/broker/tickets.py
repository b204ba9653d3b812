"""Tickets `<journal>.<number>.<secret>` and the ids of items `<journal>.<number>`. Pure.

The secret is made of the number with a key that stands in the journal: it needs no place in memory or in a row.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from typing import Final

from serving.errors import InvalidArgument

_TICKET: Final = re.compile(r"([a-z0-9-]{1,64})\.([0-9]{1,18})(?:\.([A-Za-z0-9_-]{22}))?")
_ID: Final = re.compile(r"([a-z0-9-]{1,64})\.([0-9]{1,18})")


def secret(key: bytes, number: int) -> str:
    """132 bits of HMAC-SHA256 in 22 letters."""
    digest = hmac.digest(key, number.to_bytes(8, "big"), hashlib.sha256)
    return base64.urlsafe_b64encode(digest)[:22].decode()


def is_secret(key: bytes, number: int, given: str) -> bool:
    return hmac.compare_digest(secret(key, number), given)


def read_ticket(text: str) -> tuple[str, int, str]:
    """Journal, number and secret; the secret of an id is empty. Raises `InvalidArgument`."""
    found = _TICKET.fullmatch(text)
    if found is None:
        raise InvalidArgument(f"no ticket: {text[:100]!r}; one is `<journal>.<number>.<secret>`, as Submit answered it")
    return found[1], int(found[2]), found[3] or ""


def read_id(text: str) -> tuple[str, int]:
    """Journal and number. Raises `InvalidArgument`."""
    found = _ID.fullmatch(text)
    if found is None:
        raise InvalidArgument(f"no id of an item: {text[:100]!r}; one is `<journal>.<number>`")
    return found[1], int(found[2])
