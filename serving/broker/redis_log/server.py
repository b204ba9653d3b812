"""The connection to a Redis server, and its errors as those of the mesh. Blocks; from any thread."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Final, Literal

import redis
from redis import exceptions
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.retry import Retry

from serving.broker.redis_log.durability import Durability, Facts, durability
from serving.broker.redis_log.settings import RedisSettings
from serving.errors import FailedPrecondition, Internal, MeshError, NotSupported, ResourceExhausted, Unavailable

_LOG: Final = logging.getLogger(__name__)
_CONNECT_S: Final = 2.0
_ANSWER_S: Final = 10.0  # with what waits for the disk, and bodies of many MiB
_AWAY: Final = (  # it may be there again soon, or another one in its place
    redis.ConnectionError, redis.TimeoutError, redis.ReadOnlyError, exceptions.ClusterDownError,
    exceptions.TryAgainError,
)  # fmt: skip
_DENIED: Final = (redis.AuthenticationError, exceptions.AuthorizationError, exceptions.NoPermissionError)
_REDIRECTED: Final = (exceptions.AskError, exceptions.ClusterCrossSlotError)
# Said before the first write. Servers before 7 put an error of a script into a text of their own.
_NO_WRITES: Final = ("MISCONF ", "-MISCONF ", "NOREPLICAS ", "-NOREPLICAS ")
_BUSY: Final = "BUSY "  # with another script


class _Credentials(CredentialProvider):
    """Reads the password for each new connection, so that it may change."""

    def __init__(self, user: str, file: Path | None) -> None:
        self._user = user
        self._file = file

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        password = self._file.read_text(encoding="utf-8").strip() if self._file is not None else ""
        return (self._user, password) if self._user else (password,)


class RedisServer:
    """`client` repeats nothing by itself: what was sent may have been done."""

    def __init__(self, settings: RedisSettings, answer_s: float = _ANSWER_S) -> None:
        """`answer_s`: it is taken to be away when it says nothing for so long."""
        self.settings = settings
        at = settings.address
        options: dict[str, Any] = {}
        if at.user or settings.password_file is not None:
            options["credential_provider"] = _Credentials(at.user, settings.password_file)
        if at.tls:
            options["ssl"] = True
            files = {"ca_certs": settings.ca_file, "certfile": settings.cert_file, "keyfile": settings.key_file}
            options.update({f"ssl_{name}": str(file) for name, file in files.items() if file is not None})
        self.client = redis.Redis(
            host=at.host, port=at.port, db=at.database, protocol=2, client_name="mesh-broker",
            socket_connect_timeout=_CONNECT_S, socket_timeout=answer_s, retry=Retry(NoBackoff(), 0), **options,
        )  # fmt: skip

    def facts(self) -> Facts:
        """Raises `MeshError`."""
        try:
            info: Any = self.client.info()
            try:
                config: Any = self.client.config_get("appendfsync", "maxmemory-policy")
            except redis.ResponseError:
                try:  # one at a time, for servers before 7
                    config = {**self._config("appendfsync"), **self._config("maxmemory-policy")}
                except redis.ResponseError:
                    config = None
            return Facts.of(info, config)
        except (redis.RedisError, OSError) as error:
            raise self.error_of(error) from error

    def _config(self, name: str) -> dict[str, str]:
        found: Any = self.client.config_get(name)
        return dict(found)

    def durability(self, sync: Literal["full", "normal"]) -> Durability:
        """What commits wait for. Raises `FailedPrecondition`, `NotSupported`, `Unavailable`."""
        settings = self.settings
        found = durability(
            self.facts(), sync=sync, replicas=settings.replicas, allow_volatile=settings.allow_volatile
        )  # fmt: skip
        for warning in found.warnings:
            _LOG.warning("journals in Redis", extra={"server": str(settings.address), "warning": warning})
        return found

    def close(self) -> None:
        self.client.close()

    def error_of(self, error: Exception) -> MeshError:
        """What a client or an operator is told of it."""
        at, text = str(self.settings.address), str(error)
        if isinstance(error, _DENIED):
            return FailedPrecondition(f"the Redis server {at} does not let the broker in: {text}")
        if is_away(error):
            return Unavailable(f"the journals are in Redis, and {at} does not answer ({text}): submit it again")
        if _is_full(error):
            return ResourceExhausted(f"the memory of the Redis server {at} is full: give it more `maxmemory`")
        if is_refused(error):
            return Unavailable(f"the Redis server {at} takes no writes: {text}")
        if isinstance(error, _REDIRECTED):
            return NotSupported(f"Redis Cluster is not supported, and {at} belongs to one: name one server")
        if isinstance(error, OSError):
            return FailedPrecondition(f"what Redis at {at} needs cannot be read: {error}")
        return Internal(f"the Redis server {at}: {text}")


def is_away(error: Exception) -> bool:
    """Whether it did what it was asked is not known."""
    if isinstance(error, _DENIED):
        return False
    return isinstance(error, _AWAY) or (isinstance(error, redis.ResponseError) and str(error).startswith(_BUSY))


def is_refused(error: Exception) -> bool:
    """It did nothing of it, and says why."""
    return _is_full(error) or any(sign in str(error) for sign in _NO_WRITES)


def _is_full(error: Exception) -> bool:
    return isinstance(error, exceptions.OutOfMemoryError) or "-OOM " in str(error)
