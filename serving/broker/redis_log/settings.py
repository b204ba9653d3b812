"""Which Redis keeps the journals, and how. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from serving.errors import InvalidArgument

PORT: Final = 6379
TAKEOVER_S: Final = 10.0
MIN_TAKEOVER_S: Final = 1.0
MAX_TAKEOVER_S: Final = 600.0
MAX_REPLICAS: Final = 100
MAX_BODY_BYTES: Final = 256 << 20  # `proto-max-bulk-len` of a server is 512 MiB


@dataclass(frozen=True, slots=True)
class Address:
    """Of a server; `user` is empty for the default one."""

    host: str
    port: int = PORT
    database: int = 0
    user: str = ""
    tls: bool = False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'rediss' if self.tls else 'redis'}://{host}:{self.port}/{self.database}"


def parse_address(url: str) -> Address:
    """`redis[s]://[user@]host[:port][/database]`. Raises `InvalidArgument`."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InvalidArgument(f"is not the address of a Redis server: {error}") from error
    if parts.password is not None:
        raise InvalidArgument("has a password, which everyone could read who reads the spec: name a `password_file`")
    if parts.scheme not in ("redis", "rediss"):
        raise InvalidArgument("is not `redis://host:port/database`, or `rediss://` for TLS")
    if not parts.hostname or parts.query or parts.fragment or any(sign.isspace() for sign in url):
        raise InvalidArgument("is not `redis[s]://[user@]host[:port][/database]`")
    database = parts.path.lstrip("/")
    if database and not (database.isascii() and database.isdigit() and len(database) <= 6):
        raise InvalidArgument("names a database that is not a number")
    tls = parts.scheme == "rediss"
    return Address(parts.hostname, port or PORT, int(database or 0), unquote(parts.username or ""), tls)


@dataclass(frozen=True, slots=True)
class RedisSettings:
    """Raises `InvalidArgument` for what cannot be.

    `scope`: whose journals these are, `<namespace>/<application>/<deployment>`. `replicas` of the server must have a
    commit before it is confirmed. A journal whose broker has said nothing for `takeover_s` is taken over by another.
    `allow_volatile`: also a server that keeps nothing on its disk, or never waits for it. Files lie on the broker's
    node.
    """

    address: Address
    scope: str
    password_file: Path | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    replicas: int = 0
    takeover_s: float = TAKEOVER_S
    allow_volatile: bool = False

    def __post_init__(self) -> None:
        if not self.scope or any(sign in "{}" or sign.isspace() for sign in self.scope):
            raise InvalidArgument(f"broker: {self.scope!r} is no name for journals in Redis")
        if not (math.isfinite(self.takeover_s) and MIN_TAKEOVER_S <= self.takeover_s <= MAX_TAKEOVER_S):
            text = f"{MIN_TAKEOVER_S:g} to {MAX_TAKEOVER_S:g} s, found {self.takeover_s:g}"
            raise InvalidArgument(f"broker: redis.takeover must be {text}")
        if not 0 <= self.replicas <= MAX_REPLICAS:
            raise InvalidArgument(f"broker: redis.replicas must be 0 to {MAX_REPLICAS}, found {self.replicas}")
        if (self.cert_file is None) != (self.key_file is None):
            raise InvalidArgument("broker: redis.cert_file and redis.key_file belong together")
        if not self.address.tls and (self.ca_file or self.cert_file):
            raise InvalidArgument("broker: certificates for Redis need a `rediss://` address")
