"""The journals of a broker in Redis, and who serves which.

Who serves a journal holds its `owner` key, which expires unless it is renewed; a thread of its own does that, whatever
the event loop is busy with. That only says when another one may take the journal; what keeps an old broker from writing
is that it is not its turn any more (`log.py`).
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
from serving.broker.redis_log.scripts import Keys, Turn, journals_key
from serving.broker.redis_log.server import RedisServer
from serving.broker.redis_log.settings import RedisSettings
from serving.broker.shelf import JournalLock, prepare_folder, remove_journal
from serving.errors import MeshError, Unavailable

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
        self._turn: Turn | None = None
        self._renewed = 0.0
        self._log: RedisLog | None = None

    def take(self, *, begin: bool = False) -> bool:
        if not self._lock.take():
            return False
        keys, shelf = self._keys, self._shelf
        sent, name = time.monotonic(), f"{shelf.me}/{secrets.token_hex(8)}"
        given = (
            shelf.me, shelf.takeover_ms, shelf.before.get(keys.journal, ""), keys.journal, "1" if begin else "",
            secrets.token_bytes(32), schema.VERSION, rows.COLUMNS_TEXT, name,
        )  # fmt: skip
        answer = shelf.run(scripts.TAKE, (keys.owner, keys.meta, keys.journals), given)
        if answer in (scripts.ABSENT, scripts.TAKEN):
            self._lock.release(remove=True)
            return False
        self._turn, self._renewed = Turn(answer, name), sent
        shelf.before.pop(keys.journal, None)
        shelf.hold(self)
        return True

    def open(self, loop: asyncio.AbstractEventLoop) -> Journal:
        shelf, turn = self._shelf, self._turn
        assert turn is not None, "it was taken"
        durability = shelf.durability()
        try:
            self._settle(turn, durability)
            write_index(self._index, shelf.server, self._keys)
        except (redis.RedisError, OSError) as error:
            raise shelf.server.error_of(error) from error
        log = RedisLog(shelf.server, self._keys, turn, durability, shelf.patience_s)
        self._log = log
        return Journal.open(self._index, loop, "off", log)

    def release(self, *, remove: bool = False) -> None:
        if not self._lock.held:
            return
        self._shelf.let_go(self)
        try:
            if self._turn is not None:
                begun = self._turn.epoch == 1 and self._log is None  # and never served
                self._give_up(self._turn, remove or begun)
        except MeshError as error:  # it expires
            keys = {"journal": self._keys.journal, "error": error.message}
            _LOG.warning("journal could not be released at the Redis server", extra=keys)
        finally:
            self._turn = None
            remove_journal(self._index)
            self._lock.release(remove=True)

    def renew(self) -> None:
        """Or loses it, at once where another one has it, and when it could not be renewed for too long."""
        shelf, turn, sent = self._shelf, self._turn, time.monotonic()
        if turn is None:  # it was released this moment
            return
        try:
            answer = shelf.run(scripts.RENEW, *self._renewal(turn), shelf.renewing)
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

    def _renewal(self, turn: Turn) -> tuple[tuple[str, ...], tuple[Any, ...]]:
        """Keys and arguments of `RENEW`."""
        return (self._keys.owner, self._keys.meta), (self._shelf.me, self._shelf.takeover_ms, turn.epoch, turn.name)

    def _settle(self, turn: Turn, durability: Durability) -> None:
        """Until that it was taken is as safe as a commit: a failover must not give the journal away once more.

        Raises `Unavailable`, what a renewal raises, or an error of Redis.
        """
        if not durability.waits:
            return
        shelf = self._shelf
        keys, given = self._renewal(turn)
        until = time.monotonic() + shelf.patience_s
        while True:
            pipeline: Any = shelf.server.client.pipeline(transaction=False)
            pipeline.eval(scripts.RENEW, len(keys), *keys, *given)  # a write: what waits, waits for those before it
            pipeline.execute_command(*durability.waits)
            answer, waited = pipeline.execute()
            if answer != scripts.STORED:
                raise lost(self._keys.journal, answer)
            if durability.reached(waited):
                return
            if time.monotonic() >= until:
                raise Unavailable(
                    f"that the journal {self._keys.journal} was taken is not on as many disks as it should be: look at "
                    f"the Redis server {shelf.settings.address} and its replicas"
                )

    def _give_up(self, turn: Turn, remove: bool) -> None:
        keys = self._keys
        names = (
            keys.owner, keys.meta, keys.journals, keys.items, keys.heads, keys.requests, keys.results,
        )  # fmt: skip
        given = (self._shelf.me, turn.epoch, turn.name, keys.journal, "1" if remove else "")
        self._shelf.run(scripts.RELEASE, names, given)


class RedisShelf:
    """All journals of one application's broker, on whichever node. Its folder has their indexes."""

    shared = True

    def __init__(self, settings: RedisSettings, folder: Path, name: str, sync: Literal["full", "normal"]) -> None:
        """`name`: of this broker, also when its process was started again; empty: it has none.

        What the process before had is taken at once, and only that, once: should it live on, two processes of one name
        would take journals from each other for ever.
        """
        self.settings = settings
        self.folder = folder
        self.name = name
        self.me = f"{name}/{secrets.token_hex(8)}"
        self.server = RedisServer(settings)
        self.renewing = RedisServer(settings, settings.takeover_s / _RENEWALS)  # what takes long must not delay it
        self.takeover_ms = round(1000 * settings.takeover_s)
        self.patience_s = _PATIENCE * settings.takeover_s
        self.before: dict[str, str] = {}  # journals, and their owners, of my name when this one began
        self._looked = False
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
        owners = self._owners()
        if not self._looked:
            self._looked = True
            if self.name:
                mine = f"{self.name}/"
                self.before = {name: owner for name, owner in owners.items() if owner.startswith(mine)}
        return [name for name, owner in owners.items() if owner in ("", self.me, self.before.get(name))]

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

    def _owners(self) -> dict[str, str]:
        """Of all journals, by name; empty: nobody serves it."""
        try:
            found: Any = self.server.client.smembers(journals_key(self.settings.scope))
            names = sorted(name.decode() for name in found)
            if not names:
                return {}
            owners: Any = self.server.client.mget([Keys(self.settings.scope, name).owner for name in names])
        except (redis.RedisError, OSError) as error:
            raise self.server.error_of(error) from error
        return {name: (owner or b"").decode() for name, owner in zip(names, owners, strict=True)}

    def _renew(self) -> None:
        while not self._closed.wait(self.settings.takeover_s / _RENEWALS):
            with self._changing:
                held = list(self._held)
            for place in held:
                place.renew()
