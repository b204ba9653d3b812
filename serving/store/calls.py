"""Calls to etcd: failover, bounded retries with jitter, tokens. Knows which failures leave it open what happened."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path
from typing import Final

import grpc
import grpc.aio

from serving._proto import etcd_pb2 as pb
from serving.config import EtcdConfig
from serving.errors import FailedPrecondition, MeshError, StoreUnavailable
from serving.store.faults import Cure, Fault, fault_of
from serving.store.transport import Line, Transport
from serving.store.wire import AUTHENTICATE, Method, Q, R
from serving.timeouts import cancelled_by_owner

_FIRST_WAIT_S: Final = 0.05
_MAX_WAIT_S: Final = 1.0
_LEAST_TIMEOUTS: Final = 3  # an election in etcd takes a second or two, on a busy machine more: do not give up before
LEADER_METADATA: Final = ("hasleader", "true")  # a member that lost its leader says so at once


class MaybeApplied(StoreUnavailable):
    """The call failed in a way that leaves open whether etcd did, or will still do, what was asked."""


def backoff_s(attempt: int) -> float:
    """Seconds to wait after the `attempt`-th failure (from 0), with jitter."""
    return min(_MAX_WAIT_S, _FIRST_WAIT_S * 2.0 ** min(attempt, 10)) * random.uniform(0.5, 1.5)


class Tokens:
    """The token of a user, taken when it is first needed and taken anew when etcd no longer knows it."""

    def __init__(self, config: EtcdConfig) -> None:
        self._config = config
        self._token = ""
        self._lock = asyncio.Lock()

    async def metadata(self, line: Line) -> tuple[tuple[str, str], ...]:
        """What goes with a call. Raises `AioRpcError` as etcd answers the login."""
        if not self._config.user:
            return (LEADER_METADATA,)
        async with self._lock:
            if not self._token:
                self._token = await self._login(line)
        return (LEADER_METADATA, ("token", self._token)) if self._token != _NO_AUTH else (LEADER_METADATA,)

    def forget(self, metadata: tuple[tuple[str, str], ...]) -> None:
        """Drops the token that these metadata carried, unless another call has already replaced it."""
        if self._token and dict(metadata).get("token", _NO_AUTH) == self._token:
            self._token = ""

    async def _login(self, line: Line) -> str:
        request = pb.AuthenticateRequest(
            name=self._config.user, password=await asyncio.to_thread(_read_password, self._config.password_file)
        )
        try:
            response = await line.unary(AUTHENTICATE)(request, timeout=self._config.request_timeout_s)
        except grpc.aio.AioRpcError as error:
            # A store without authentication (a new, empty one) needs no token; it says so when that changes.
            if "authentication is not enabled" in (error.details() or ""):
                return _NO_AUTH
            raise
        return response.token


_NO_AUTH: Final = "-"  # no real token: etcd's contain a dot


def _read_password(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").rstrip("\r\n") if path else ""
    except OSError as error:
        raise FailedPrecondition(f"cannot read the password file of the etcd connection: {error}") from error


class Calls:
    """Everything a client sends to etcd goes through here. Belongs to the event loop that first uses it."""

    def __init__(self, config: EtcdConfig) -> None:
        self.config = config
        self.transport = Transport(config)
        self.tokens = Tokens(config)

    async def call(self, method: Method[Q, R], request: Q, *, what: str, repeat: bool) -> R:
        """One answer, from whichever endpoint gives it first.

        With `repeat` the request is one that may be applied twice. Without it, a failure that leaves the outcome open
        is raised as `MaybeApplied` instead of being tried again. Raises `StoreUnavailable` after the last attempt, and
        any other error of etcd's as the table in `faults` says.
        """
        longest_s = 2 * self.config.request_timeout_s + _MAX_WAIT_S  # of a round: a pause, a login, the call
        spent_s, began_s = 0.0, time.monotonic()
        attempt = 0
        while True:
            try:
                return await self._once(method, request, what)
            except _AttemptError as failed:
                fault = failed.fault
            if fault.cure is Cure.NONE:
                raise fault.error
            if fault.applied_maybe and not repeat:
                raise MaybeApplied(fault.error.message) from fault.error
            attempt += 1
            # What goes beyond that, the machine stood still: then nothing was tried, and etcd is not to blame.
            spent_s += min(time.monotonic() - began_s, longest_s)
            if self._exhausted(attempt, spent_s):
                raise fault.error
            began_s = time.monotonic()
            await self._pause(attempt, fault)

    def _exhausted(self, attempts: int, spent_s: float) -> bool:
        config = self.config
        if spent_s >= config.max_attempts * config.request_timeout_s:
            return True
        return attempts >= config.max_attempts and spent_s >= _LEAST_TIMEOUTS * config.request_timeout_s

    async def _pause(self, attempt: int, fault: Fault) -> None:
        first_login = fault.cure is Cure.LOGIN and attempt == 1
        another = fault.cure is Cure.ELSEWHERE and self.transport.healthy_left()
        await asyncio.sleep(0 if first_login or another else backoff_s(attempt - 1))

    async def _once(self, method: Method[Q, R], request: Q, what: str) -> R:
        async with self.transport.line() as line:
            metadata: tuple[tuple[str, str], ...] = ()
            try:
                metadata = await self.tokens.metadata(line)
                response = await line.unary(method)(request, timeout=self.config.request_timeout_s, metadata=metadata)
            except grpc.aio.AioRpcError as error:
                raise _AttemptError(self.judge(error, line, metadata, what)) from error
            except (asyncio.CancelledError, grpc.aio.UsageError) as error:
                if self.closed_under(error):
                    raise self.closed_meanwhile(what) from error
                raise
            self.transport.succeeded(line)
            return response

    def judge(self, error: grpc.aio.AioRpcError, line: Line, metadata: tuple[tuple[str, str], ...], what: str) -> Fault:
        """Says what a failed call means and remembers it of the endpoint and the token."""
        fault = fault_of(error, what, line.endpoint)
        if not metadata and fault.applied_maybe:  # the login failed: the call itself was never sent
            fault = Fault(fault.error, fault.cure, False)
        if fault.cure is Cure.LOGIN and not self.config.user:
            return Fault(fault.error, Cure.NONE, False)
        if fault.cure is Cure.LOGIN:
            self.tokens.forget(metadata)
        elif fault.cure is Cure.ELSEWHERE:
            self.transport.failed(line, timed_out=error.code() is grpc.StatusCode.DEADLINE_EXCEEDED)
        else:
            self.transport.succeeded(line)
        return fault

    def closed_under(self, error: asyncio.CancelledError | grpc.aio.UsageError) -> bool:
        """True when gRPC says so of a call because its channel was closed, and not because its caller was cancelled."""
        return self.closed and not (isinstance(error, asyncio.CancelledError) and cancelled_by_owner(unknown=True))

    @staticmethod
    def closed_meanwhile(what: str) -> FailedPrecondition:
        return FailedPrecondition(f"{what}: this etcd client was closed meanwhile")

    @property
    def closed(self) -> bool:
        return self.transport.closed

    async def close(self) -> None:
        await self.transport.close()


class _AttemptError(Exception):
    """Carries a fault out of one attempt."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.error.message)
        self.fault = fault


def as_unavailable(error: MeshError) -> StoreUnavailable:
    """The error itself when it is one, else one that says the same: for those who must go on whatever etcd answers."""
    if isinstance(error, StoreUnavailable):
        return error
    wrapped = StoreUnavailable(error.message)
    wrapped.__cause__ = error
    return wrapped
