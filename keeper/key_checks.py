"""What a new API key may say. Pure."""

from __future__ import annotations

from typing import Final

from serving._proto import records_pb2 as pb
from serving.access.api_key import is_hash, is_key_id
from serving.access.windows import PERIODS
from serving.errors import InvalidArgument
from serving.types import NAME_RULE, is_name

_MOST_NAME: Final = 100  # characters
_MOST_PATTERNS: Final = 100
_MOST_PATTERN: Final = 200  # characters
_MOST_LIMIT: Final = 1 << 53  # what JSON readers can count to


def check_key(key: pb.ApiKey, now: float) -> None:
    """Raises `InvalidArgument` that names the field."""
    if not is_key_id(key.id):
        raise InvalidArgument(f"id: {key.id[:80]!r} is not 16 hexadecimal digits")
    if not is_hash(key.secret_sha256):
        raise InvalidArgument("secret_sha256: it is not the SHA-256 of a secret in hexadecimal digits")
    if not is_name(key.tenant):
        raise InvalidArgument(f"tenant: {key.tenant[:80]!r} is not a valid name ({NAME_RULE})")
    if len(key.name) > _MOST_NAME or not key.name.isprintable():
        raise InvalidArgument(f"name: at most {_MOST_NAME} printable characters")
    _check_patterns(key)
    check_limits(key.limits)
    if key.HasField("expires_at") and key.expires_at.ToNanoseconds() / 1e9 <= now:
        raise InvalidArgument("expires_at: it is over already")


def _check_patterns(key: pb.ApiKey) -> None:
    if len(key.models) > _MOST_PATTERNS or len(key.namespaces) > _MOST_PATTERNS:
        raise InvalidArgument(f"models, namespaces: at most {_MOST_PATTERNS} each; use patterns (*, ?, [abc])")
    for pattern in key.models:
        if not 0 < len(pattern) <= _MOST_PATTERN or not pattern.isprintable() or " " in pattern:
            raise InvalidArgument(f"models: {pattern[:80]!r} is no pattern of names of models")
    for namespace in key.namespaces:
        if not is_name(namespace):
            raise InvalidArgument(f"namespaces: {namespace[:80]!r} is not a valid name ({NAME_RULE})")


def check_limits(limits: pb.KeyLimits) -> None:
    """Raises `InvalidArgument` that names the limit."""
    for name in PERIODS:
        if not 0 <= getattr(limits, name) <= _MOST_LIMIT:
            raise InvalidArgument(f"limits.{name}: {getattr(limits, name)} is out of range: 1 to 2^53, or 0 for none")
