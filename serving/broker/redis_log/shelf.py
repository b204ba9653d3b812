"""The journals of a broker in Redis, and who serves which.

Who serves a journal holds its `owner` key, which expires unless it is renewed; a thread of its own does that, whatever
the event loop is busy with. That only says when another one may take the journal; what keeps an old broker from writing
is the epoch (`log.py`).
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
import time
from pathlib import Path
from typing import Any, Final, Literal

import redis

from serving.broker import journal_schema as schema
from serving.broker.journal import Journal
from serving.broker.redis_log import rows, scripts
from serving.broker.redis_log.durability import Durability
from serving.broker.redis_log.index import write_index
from serving.broker.redis_log.log import RedisLog, lost
from serving.broker.redis_log.scripts import Keys, journals_key
from serving.broker.redis_log.server import RedisServer
from serving.broker.redis_log.settings import RedisSettings
from serving.broker.shelf import JournalLock, prepare_folder, remove_journal
from serving.errors import MeshError

_LOG: Final = logging.getLogger(__name__)
_RENEWALS: Final = 4  # in the time after which another one may take it
_PATIENCE: Final = 0.5  # of that time: for so long a commit is tried again
INDEX_SUFFIX: Final = ".index"


class RedisPlace:
    """Of one journal. A lock beside its index keeps brokers of one node from writing the same file."""

    def __init__(self, shelf: RedisShelf, name: str) -> None:
        self._shelf = shelf
        self._keys = Keys(shelf.settings.scope, name)
        self._index = shelf.folder / f"{name}{INDEX_SUFFIX}"
        self._lock = JournalLock(self._index)
        self._epoch = 0
        self._renewed = 0.0
        self._log: RedisLog | None = None

    def take(self, *, begin: bool = False) -> bool:
        if not self._lock.take():
            return False
        keys, shelf = self._keys, self._shelf
        sent = time.monotonic()
        given = (
            shelf.me, shelf.takeover_ms, shelf.name, keys.journal, "1" if begin else "", secrets.token_bytes(32),
            schema.VERSION, rows.COLUMNS_TEXT,
        )  # fmt: skip
        answer = shelf.run(scripts.TAKE, (keys.owner, keys.meta, keys.journals), given)
        if answer in (scripts.ABSENT, scripts.TAKEN):
            self._lock.release(remove=True)
            return False
        self._epoch, self._renewed = answer, sent
        shelf.hold(self)
        return True

    def open(self, loop: asyncio.AbstractEventLoop) -> Journal:
        shelf = self._shelf
        durability = shelf.durability()
        try:
            write_index(self._index, shelf.server, self._keys)
        except (redis.RedisError, OSError) as error:
            raise shelf.server.error_of(error) from error
        log = RedisLog(shelf.server, self._keys, self._epoch, durability, _PATIENCE * shelf.settings.takeover_s)
        self._log = log
        return Journal.open(self._index, loop, "off", log)

    def release(self, *, remove: bool = False) -> None:
        if not self._lock.held:
            return
        self._shelf.let_go(self)
        try:
            if self._epoch:
                self._give_up(remove)
        except MeshError as error:  # it expires
            keys = {"journal": self._keys.journal, "error": error.message}
            _LOG.warning("journal could not be released at the Redis server", extra=keys)
        finally:
            self._epoch = 0
            remove_journal(self._index)
            self._lock.release(remove=True)

    def renew(self) -> None:
        """Or loses it, at once where another one has it, and when it could not be renewed for too long."""
        shelf, sent = self._shelf, time.monotonic()
        try:
            given = (shelf.me, shelf.takeover_ms, self._epoch)
            names = (self._keys.owner, self._keys.meta)
            answer = shelf.run(scripts.RENEW, names, given, shelf.renewing)
            if answer == scripts.STORED:
                self._renewed = sent
                return
            error = lost(self._keys.journal, answer)
        except MeshError as failed:
            if sent - self._renewed < shelf.settings.takeover_s:
                return
            error = failed
        if self._log is not None:
            self._log.lose(error)

    def _give_up(self, remove: bool) -> None:
        keys = self._keys
        names = (
            keys.owner, keys.meta, keys.journals, keys.items, keys.heads, keys.requests, keys.results,
        )  # fmt: skip
        given = (self._shelf.me, self._epoch, keys.journal, "1" if remove else "")
        self._shelf.run(scripts.RELEASE, names, given)


class RedisShelf:
    """All journals of one application's broker, on whichever node. Its folder has their indexes."""

    shared = True

    def __init__(self, settings: RedisSettings, folder: Path, name: str, sync: Literal["full", "normal"]) -> None:
        """`name`: of this broker, also when its process was started again; empty: it has none."""
        self.settings = settings
        self.folder = folder
        self.name = name
        self.me = f"{name}/{secrets.token_hex(8)}"
        self.server = RedisServer(settings)
        self.renewing = RedisServer(settings, settings.takeover_s / _RENEWALS)  # what takes long must not delay it
        self.takeover_ms = round(1000 * settings.takeover_s)
        self._sync = sync
        self._held: set[RedisPlace] = set()
        self._changing = threading.Lock()
        self._closed = threading.Event()
        self._renewer: threading.Thread | None = None

    def prepare(self) -> None:
        prepare_folder(self.folder)
        for index in self.folder.glob(f"*{INDEX_SUFFIX}"):  # of a process that was killed
            lock = JournalLock(index)
            if lock.take():
                remove_journal(index)
                lock.release(remove=True)
        self.durability()
        self._renewer = threading.Thread(target=self._renew, name="journal-owner", daemon=True)
        self._renewer.start()

    def names(self) -> list[str]:
        try:
            found: Any = self.server.client.smembers(journals_key(self.settings.scope))
            names = sorted(name.decode() for name in found)
            if not names:
                return []
            owners: Any = self.server.client.mget([Keys(self.settings.scope, name).owner for name in names])
        except (redis.RedisError, OSError) as error:
            raise self.server.error_of(error) from error
        return [name for name, owner in zip(names, owners, strict=True) if owner is None or self._mine(owner.decode())]

    def place(self, name: str) -> RedisPlace:
        return RedisPlace(self, name)

    def close(self) -> None:
        self._closed.set()
        if self._renewer is not None:
            self._renewer.join()
        self.renewing.close()
        self.server.close()

    # ------------------------------------------------------------------------------------------------ for places

    def durability(self) -> Durability:
        return self.server.durability(self._sync)

    def run(self, script: str, keys: tuple[str, ...], given: tuple[Any, ...], by: RedisServer | None = None) -> int:
        """What it answers. Raises `MeshError`."""
        try:
            answer: Any = (by or self.server).client.eval(script, len(keys), *keys, *given)
            return int(answer)
        except (redis.RedisError, OSError) as error:
            raise self.server.error_of(error) from error

    def hold(self, place: RedisPlace) -> None:
        with self._changing:
            self._held.add(place)

    def let_go(self, place: RedisPlace) -> None:
        with self._changing:
            self._held.discard(place)

    def _mine(self, owner: str) -> bool:
        return owner == self.me or (bool(self.name) and owner.startswith(f"{self.name}/"))

    def _renew(self) -> None:
        while not self._closed.wait(self.settings.takeover_s / _RENEWALS):
            with self._changing:
                held = list(self._held)
            for place in held:
                place.renew()
