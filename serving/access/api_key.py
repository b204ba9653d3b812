"""The text of an API key: `mesh_<id>_<secret>`. Pure.

The secret has 256 random bits, so its hash needs neither salt nor slowness: there is nothing to guess.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from typing import Final

_ID_BYTES: Final = 8
_SECRET_BYTES: Final = 32
_ID: Final = re.compile(r"[0-9a-f]{16}")
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_TEXT: Final = re.compile(rb"mesh_([0-9a-f]{16})_([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class KeyText:
    """A key as its holder sends it. `str` has no secret, so that it may be logged."""

    id: str
    secret: str

    def text(self) -> str:
        return f"mesh_{self.id}_{self.secret}"

    def __repr__(self) -> str:
        return f"KeyText(id={self.id!r})"


def new_key() -> KeyText:
    return KeyText(secrets.token_hex(_ID_BYTES), secrets.token_hex(_SECRET_BYTES))


def read_key(text: bytes) -> KeyText | None:
    """None for what is no key, be it of any bytes and length."""
    found = _TEXT.fullmatch(text)
    return KeyText(found[1].decode(), found[2].decode()) if found else None


def secret_hash(secret: str) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(secret.encode()).hexdigest()


def is_secret(secret: str, stored_hash: str) -> bool:
    """Compares in constant time: how long it takes tells nothing of the stored hash."""
    return hmac.compare_digest(secret_hash(secret), stored_hash)


def is_key_id(text: str) -> bool:
    return _ID.fullmatch(text) is not None


def is_hash(text: str) -> bool:
    return _HASH.fullmatch(text) is not None
