"""Signatures of webhooks, as https://www.standardwebhooks.com says (version 1.0.0, symmetric). Pure, but for the clock.

What is signed is `<webhook-id>.<webhook-timestamp>.<body>`, with HMAC-SHA256; `webhook-signature` has `v1,<base64>` for
each secret that is in use, with spaces between them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from serving.errors import InvalidArgument, Unauthenticated

ID: Final = "webhook-id"
TIMESTAMP: Final = "webhook-timestamp"
SIGNATURE: Final = "webhook-signature"
TOLERANCE_S: Final = 300.0
_PREFIX: Final = "whsec_"
_VERSION: Final = "v1"
_SHORTEST: Final = 24  # bytes
_LONGEST: Final = 64
_MOST_SIGNATURES: Final = 16


def read_secret(text: str) -> bytes:
    """The key of `whsec_<base64>`, 24 to 64 bytes. Raises `InvalidArgument`, which does not say the secret."""
    if not text.startswith(_PREFIX):
        raise InvalidArgument(f"no secret of a webhook: one is `{_PREFIX}` and base64")
    try:
        key = base64.b64decode(text[len(_PREFIX) :], validate=True)
    except (binascii.Error, ValueError):
        raise InvalidArgument(f"no secret of a webhook: what follows `{_PREFIX}` is not base64") from None
    if not _SHORTEST <= len(key) <= _LONGEST:
        raise InvalidArgument(f"a secret of a webhook has {len(key)} bytes; {_SHORTEST} to {_LONGEST} are allowed")
    return key


def signature(key: bytes, webhook_id: str, timestamp: int, body: bytes) -> str:
    """`v1,<base64>`. The id must have no full stop."""
    content = b"%s.%d.%s" % (webhook_id.encode(), timestamp, body)
    return f"{_VERSION},{base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()}"


def signed_headers(keys: Sequence[bytes], webhook_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers of a webhook; without keys it is not signed."""
    headers = {ID: webhook_id, TIMESTAMP: str(timestamp)}
    if keys:
        headers[SIGNATURE] = " ".join(signature(key, webhook_id, timestamp, body) for key in keys)
    return headers


def verify_webhook(
    headers: Mapping[str, str],
    body: bytes | str,
    secret: str | Sequence[str],
    *,
    tolerance_s: float = TOLERANCE_S,
    now: float | None = None,
) -> Any:
    """For receivers: the JSON of a webhook's body, when one of the secrets has signed it.

    `body` is what was received, byte for byte. `now` (unix seconds; by default the clock) may be `tolerance_s` away
    from the webhook's time. Keep its `webhook-id` for as long, and leave out what comes a second time. Raises
    `Unauthenticated` for what is not signed so, and `InvalidArgument` for what is no secret, or no JSON though signed.
    """
    data = body.encode() if isinstance(body, str) else bytes(body)
    keys = [read_secret(one) for one in ([secret] if isinstance(secret, str) else secret)]
    if not keys:
        raise InvalidArgument("no secret is given to verify with")
    given = {name.lower(): value for name, value in headers.items()}
    for name in (ID, TIMESTAMP, SIGNATURE):
        if not given.get(name):
            raise Unauthenticated(f"the webhook has no header {name}")
    if "." in given[ID]:
        raise Unauthenticated(f"the header {ID} has a full stop")
    timestamp = _timestamp(given[TIMESTAMP])
    if abs((time.time() if now is None else now) - timestamp) > tolerance_s:
        raise Unauthenticated(f"the webhook's time is more than {tolerance_s:g} s away")
    wanted = [signature(key, given[ID], timestamp, data).encode() for key in keys]
    found = given[SIGNATURE].encode().split()[:_MOST_SIGNATURES]
    if not any(hmac.compare_digest(one, other) for one in wanted for other in found):
        raise Unauthenticated("no signature of the webhook fits its content and the secret")
    try:
        return json.loads(data)
    except ValueError as error:
        raise InvalidArgument(f"the webhook's body is no JSON: {error}") from error


def _timestamp(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise Unauthenticated(f"the header {TIMESTAMP} is no time in unix seconds")
    return int(text)
