"""One journal in Redis, from the moment it is taken: commits go there, and nobody else's do.

Every commit says who took the journal, and when in turn, which the server checks in the same step, so an old
broker that still lives changes nothing. It carries its count, too: one that was sent and not answered is sent again,
and done once. From then on nobody knows whether it was, so the server's refusals are no answer to it any more.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Sequence
from typing import Any, Final

import redis

from serving.broker.journal_changes import Change
from serving.broker.redis_log import rows, scripts
from serving.broker.redis_log.durability import Durability
from serving.broker.redis_log.scripts import Keys, Turn
from serving.broker.redis_log.server import RedisServer, is_away, is_refused
from serving.errors import DataLoss, MeshError, Unavailable

_AGAIN_S: Final = 0.05
_MOST_AGAIN_S: Final = 0.5


class RedisLog:
    """`append` belongs to one thread, `lose` to any. `patience_s`: for so long a server may be away."""

    def __init__(self, server: RedisServer, keys: Keys, turn: Turn, durability: Durability, patience_s: float) -> None:
        self.keys = keys
        self.turn = turn
        self._server = server
        self._durability = durability
        self._patience_s = patience_s
        self._failure: MeshError | None = None
        self._ended = threading.Event()
        self._group = 0
        self._may_be_kept = False  # what is being appended: an earlier send of it may have been done
        self._entries = 0
        self._last = 0
        self._script = scripts.APPEND
        self._sha = ""

    @property
    def failure(self) -> MeshError | None:
        return self._failure

    def lose(self, error: MeshError) -> None:
        """It is not to be written any more."""
        if self._failure is None:
            self._failure = error
        self._ended.set()

    def append(self, index: sqlite3.Connection, changes: Sequence[Change]) -> None:
        if self._failure is not None:
            raise self._failure
        group = self._group + 1
        self._last = max([self._last, *(change.number for change in changes if change.insert is not None)])
        has_bodies = any(change.body_bytes for change in changes)
        head = (self.turn.epoch, group, self._last, self._entries, int(has_bodies), self.turn.name)
        keys = self.keys
        names = (keys.meta, keys.items, keys.heads, keys.requests, keys.results)
        call = (len(names), *names, *head, *rows.arguments(index, changes))
        self._may_be_kept = False
        self._keep(call)
        self._group = group
        self._entries += len(changes)

    # ------------------------------------------------------------------------------------------------ parts

    def _keep(self, call: Sequence[Any]) -> None:
        """Until it is kept as it should be. Raises what it is refused with, of which nothing is kept; else the log has
        failed.
        """
        until = time.monotonic() + self._patience_s
        pause_s = _AGAIN_S
        while True:
            try:
                if self._send(call):
                    return
                error: MeshError = Unavailable(
                    f"a commit of the journal {self.keys.journal} is not on as many disks as it should be: look at the "
                    f"Redis server {self._server.settings.address} and its replicas"
                )
            except redis.exceptions.NoScriptError as found:  # it was started again
                self._sha = ""
                error = self._server.error_of(found)
            except (redis.RedisError, OSError) as found:
                error = self._server.error_of(found)
                if is_refused(found):
                    if not self._may_be_kept:
                        raise error from found
                    unknown = f"whether a commit of the journal {self.keys.journal} is kept is not known"
                    error = Unavailable(f"{unknown}: {error.message}")
                elif not is_away(found):
                    self.lose(error)
            if time.monotonic() >= until:
                self.lose(error)
            if self._ended.wait(pause_s):
                raise self._failure or error
            pause_s = min(_MOST_AGAIN_S, 2 * pause_s)

    def _send(self, call: Sequence[Any]) -> bool:
        """False: it is kept, and not yet as safely as it should be. Raises errors of Redis, or that it is lost."""
        client = self._server.client
        if not self._sha:
            self._sha = str(client.script_load(self._script))
        pipeline: Any = client.pipeline(transaction=False)  # one connection: what waits, waits for its writes
        pipeline.execute_command("EVALSHA", self._sha, *call)
        if self._durability.waits:
            pipeline.execute_command(*self._durability.waits)
        first, self._may_be_kept = not self._may_be_kept, True
        answer, *waited = pipeline.execute(raise_on_error=False)
        if isinstance(answer, Exception):  # the server says it, so this time it has not done it
            self._may_be_kept = not first
            raise answer
        self._check(answer, first)
        for each in waited:
            if isinstance(each, Exception):
                raise each
        return all(self._durability.reached(each) for each in waited)

    def _check(self, answer: int, first: bool) -> None:
        if answer == scripts.STORED or (answer == scripts.STORED_BEFORE and not first):
            return
        error = lost(self.keys.journal, answer)
        self.lose(error)
        raise self._failure or error


def lost(journal: str, answer: int) -> MeshError:
    """What GONE and ABSENT mean, and STORED_BEFORE for what was never sent before."""
    if answer == scripts.STORED_BEFORE:
        return Unavailable(
            f"the Redis server has a commit of the journal {journal} that this broker does not know: submit it again, "
            "when the journal has been read again"
        )
    if answer == scripts.GONE:
        return Unavailable(f"the journal {journal} has another broker now: ask the one whose endpoint names it")
    return DataLoss(f"the Redis server has lost what it had confirmed of the journal {journal}: it came back older")
