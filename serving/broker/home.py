"""The folder of journals of a node: makes, locks and adopts them. Belongs to one event loop.

Each journal `<name>.sqlite` has a lock file beside it, with an flock by whoever serves it: the kernel releases it with
the process, however that ends. It is a file of its own because SQLite holds POSIX locks on the database, which a
process loses when it closes any descriptor of that file. flock belongs to the open file, so that two brokers in one
process exclude each other, too. Both need a local disk: over NFS neither flock nor SQLite's log can be relied on.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Final

from serving.broker.clients import Clients
from serving.broker.collector import Frozen, resting
from serving.broker.draining import Draining
from serving.broker.journal import Journal
from serving.broker.keeping import Keeping
from serving.broker.large_results import remove_large_results
from serving.broker.pulls import Pulls
from serving.broker.settings import BrokerSettings
from serving.broker.shard import Shard
from serving.broker.upkeep import Upkeep
from serving.control.clock import Clock, SystemClock
from serving.errors import FailedPrecondition, MeshError, Unavailable
from serving.timeouts import cancel_and_wait

_LOG: Final = logging.getLogger(__name__)
_TICK_S: Final = 0.1
_ADOPT_S: Final = 1.0
_LOOKS: Final = 3
_LOOKED_AT_S: Final = 0.1
_AGAIN_S: Final = 30.0  # until a journal that could not be opened is tried again
SUFFIX: Final = ".sqlite"
_REMOTE: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "glusterfs", "fuse.sshfs", "lustre"})


class JournalLock:
    """Who serves a journal."""

    def __init__(self, journal: Path) -> None:
        self._path = journal.with_suffix(".lock")
        self._file = -1

    @property
    def taken(self) -> bool:
        """Somebody has it. Who takes it at this very moment is refused, and tries again. Raises `OSError`."""
        try:
            file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # several may look at once
        except BlockingIOError:
            return True
        finally:
            os.close(file)
        return False

    def take(self) -> bool:
        """False: another one has it, or looks who has. Raises `OSError`."""
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever had it may have removed journal and lock between the two calls.
            if os.fstat(file).st_ino != os.stat(self._path).st_ino:
                raise FileNotFoundError(self._path)
        except (BlockingIOError, FileNotFoundError):
            os.close(file)
            return False
        except BaseException:
            os.close(file)
            raise
        self._file = file
        return True

    def release(self, *, remove: bool = False) -> None:
        """May be repeated."""
        if self._file < 0:
            return
        if remove:
            self._path.unlink(missing_ok=True)
        os.close(self._file)
        self._file = -1


class Home:
    """From `start` to `close`. `shards` are what is served, by journal; new items go to `own`."""

    def __init__(self, settings: BrokerSettings, clock: Clock | None = None) -> None:
        self.shards: dict[str, Shard] = {}
        self.clients: dict[str, Clients] = {}
        self.pulls = Pulls(self.shards)
        self.refused: dict[str, str] = {}  # journals that cannot be opened, and why
        self.reading = False  # a journal is being opened: what waits in it is not known yet
        self.draining = Draining(settings.folder, settings.name)
        self.on_open: Callable[[Shard], None] = lambda _: None
        self.on_release: Callable[[Shard], None] = lambda _: None
        self._settings = settings
        self._clock = clock or SystemClock()
        self._own = ""
        self._frozen = Frozen()
        self._again_at: dict[str, float] = {}  # of those, when they are tried again
        self._locks: dict[str, JournalLock] = {}
        self._upkeep: dict[str, Upkeep] = {}
        self._task: asyncio.Task[None] | None = None

    @property
    def own(self) -> tuple[Shard, Clients]:
        """Raises `Unavailable` while there is none."""
        shard = self.shards.get(self._own)
        if shard is None:
            raise Unavailable("this broker has no journal at the moment: its disk does not take one")
        return shard, self.clients[self._own]

    @property
    def others(self) -> list[str]:
        """Journals that were adopted."""
        return [name for name in self.clients if name != self._own]

    async def start(self) -> None:
        """Opens the journals that nobody serves, or begins one. Raises `FailedPrecondition`, `ResourceExhausted`."""
        await asyncio.to_thread(prepare_folder, self._settings.folder)
        await self.draining.recall()
        await self._adopt_first()
        await self._have_own()
        self._task = asyncio.create_task(self._run(), name="broker-home")

    async def close(self) -> None:
        """Lets go of all journals, for others to adopt. May be repeated."""
        self.pulls.refusing = True
        if self._task is not None:
            await cancel_and_wait(self._task)
        for name in list(self.shards):
            await self._release(name, discard=self.draining.discards)

    # ------------------------------------------------------------------------------------------------ as time goes by

    async def _run(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        next_look = loop.time() + _ADOPT_S
        while True:
            await self._clock.sleep(_TICK_S)
            try:
                for upkeep in list(self._upkeep.values()):
                    upkeep.tick()
                self.pulls.waiting()  # a pause may be over
                if loop.time() >= next_look:
                    next_look = loop.time() + _ADOPT_S
                    await self._look()
            except (MeshError, OSError) as error:
                _LOG.warning("journals could not be looked after", extra={"error": str(error)})
            except Exception:  # noqa: BLE001 - a fault of ours, told in the log; leases and deadlines must go on
                _LOG.exception("upkeep of the journals failed")

    async def _look(self) -> None:
        for name, shard in list(self.shards.items()):
            if shard.journal.failure is not None:
                self._refuse(name, shard.journal.failure, "journal is given up")
                await self._release(name)
            elif name != self._own and shard.empty:
                await self._release(name, remove=True)
        self._follow_size()
        await self._adopt()
        await self._have_own()

    def _follow_size(self, more: int = 0, *, collect: bool = True) -> None:
        items = sum(shard.limits.items for shard in self.shards.values())
        self._frozen.follow(items + more, collect=collect)

    async def _adopt(self) -> None:
        """What nobody serves. What cannot be opened is tried again after a while: a disk may have room again."""
        loop = asyncio.get_running_loop()
        for path in await asyncio.to_thread(lambda: sorted(self._settings.folder.glob(f"*{SUFFIX}"))):
            if path.stem not in self.shards and loop.time() >= self._again_at.get(path.stem, 0.0):
                try:
                    await self._open(path)
                finally:
                    self.reading = False

    async def _adopt_first(self) -> None:
        """Those who look who serves a journal hold its lock for a moment, for which no other journal is begun."""
        await self._adopt()
        for _ in range(_LOOKS):
            if self.shards or not any(self._settings.folder.glob(f"*{SUFFIX}")):
                return
            await asyncio.sleep(_LOOKED_AT_S)
            await self._adopt()

    async def _have_own(self) -> None:
        if self._own in self.shards:
            return
        if not self.shards:
            await self._open(self._settings.folder / f"j{secrets.token_hex(6)}{SUFFIX}", begin=True)
        self._own = next(iter(self.shards), "")

    async def _open(self, path: Path, *, begin: bool = False) -> None:
        """Raises only for one that is begun: others are left as they are."""
        lock = JournalLock(path)
        try:
            if not await asyncio.to_thread(lock.take):
                return
            self.reading = not begin
            if not begin and not await asyncio.to_thread(path.exists):  # removed by whoever had it
                lock.release(remove=True)
                return
            loop = asyncio.get_running_loop()
            journal = await asyncio.to_thread(Journal.open, path, loop, self._settings.sync)
            shard = Shard(journal, self._settings, self._clock, self.pulls)
            try:
                with resting():
                    await shard.recover()
                    self._follow_size(shard.limits.items, collect=False)  # all of it is young, and of use
            except BaseException:
                await shard.close()
                raise
        except (MeshError, OSError) as error:
            lock.release()
            failure = error if isinstance(error, MeshError) else FailedPrecondition(f"{path} cannot be used: {error}")
            if begin:
                raise failure from error
            self._refuse(path.stem, failure, "journal is left as it is")
            return
        except BaseException:
            lock.release()
            raise
        self.refused.pop(shard.name, None)
        self._locks[shard.name] = lock
        keeping = Keeping(shard)
        self._upkeep[shard.name] = Upkeep(shard, keeping)
        self.clients[shard.name] = Clients(shard, keeping)
        self.shards[shard.name] = shard
        self.on_open(shard)
        self.pulls.waiting()

    def _refuse(self, name: str, failure: MeshError, what: str) -> None:
        if name not in self.refused:
            _LOG.error(what, extra={"journal": name, "error": failure.message})
        self.refused[name] = failure.message
        self._again_at[name] = asyncio.get_running_loop().time() + _AGAIN_S

    async def _release(self, name: str, *, remove: bool = False, discard: bool = False) -> None:
        """`remove`: where it is empty; `discard`: in any case."""
        shard = self.shards.pop(name)
        self.on_release(shard)
        del self.clients[name], self._upkeep[name]
        await shard.close()
        remove = discard or (remove and shard.empty)
        if remove:
            await asyncio.to_thread(remove_journal, shard.journal.path)
        self._locks.pop(name).release(remove=remove)
        _LOG.info("journal released", extra={"journal": name, "removed": remove})


def remove_journal(path: Path) -> None:
    """The file, what SQLite keeps beside it, and its large results. Whoever calls it holds its lock."""
    remove_large_results(path)  # first: without the file nobody would look for them
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def prepare_folder(folder: Path) -> None:
    """Makes it. Raises `FailedPrecondition` where journals cannot be kept."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}-{secrets.token_hex(4)}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise FailedPrecondition(f"journals cannot be kept in {folder}: {error.strerror or error}") from error
    kind = _file_system(folder)
    if kind in _REMOTE:
        raise FailedPrecondition(
            f"journals cannot be kept in {folder}: it is on {kind}, where locks cannot be relied on; name a local disk"
        )


def _file_system(folder: Path) -> str:
    """Its type, as the kernel says; empty where it does not."""
    path = str(folder.resolve())
    found = ("", "")
    with contextlib.suppress(OSError):
        for line in Path("/proc/mounts").read_text(encoding="utf-8", errors="replace").splitlines():
            _, mount, kind, *_ = line.split(" ")
            mount = mount.replace("\\040", " ")
            inside = path == mount or path.startswith(mount.rstrip("/") + "/")
            if inside and len(mount) >= len(found[0]):
                found = (mount, kind)
    return found[1]
