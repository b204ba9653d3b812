"""The paths below /v1/files and /v1/batches: which there are, and what becomes of each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from re import Pattern
from typing import Final

from serving.errors import NotFound, NotSupported
from serving.gateway.batch.asking import BATCH_ID, FILE_ID
from serving.gateway.batch.batch_requests import BatchRequests
from serving.gateway.batch.file_requests import FileRequests
from serving.gateway.batch.operations import BATCHES, FILES, FILES_AND_BATCHES
from serving.gateway.batch.parts import BatchParts
from serving.gateway.queued.asker import Asker

PATHS: Final = frozenset(one.path for one in FILES_AND_BATCHES)  # as metrics name them
_NO_BODY: Final = 1 << 20  # bytes that are read of one that means nothing
_IDS: Final[Mapping[str, Pattern[str]]] = {FILES: FILE_ID, BATCHES: BATCH_ID}
Create = Callable[[Asker], Awaitable[None]]
Act = Callable[[str, Asker], Awaitable[None]]


class FilesAndBatches:
    """Belongs to one event loop. `takes` says whether a path is one of these, `answer` answers it."""

    def __init__(self, parts: BatchParts | None, *, called: str) -> None:
        """`parts` None: there is no file store here. `called` is the word for where that is."""
        self._called = called
        self._there = parts is not None
        self._creating: dict[str, Create] = {}
        self._listing: dict[str, Create] = {}
        self._acting: dict[tuple[str, str, str], Act] = {}
        if parts is None:
            return
        files, batches = FileRequests(parts), BatchRequests(parts)
        self._creating = {FILES: files.create, BATCHES: batches.create}
        self._listing = {FILES: files.list, BATCHES: batches.list}
        self._acting = {
            (FILES, "", "GET"): files.get,
            (FILES, "", "DELETE"): files.delete,
            (FILES, "content", "GET"): files.content,
            (BATCHES, "", "GET"): batches.get,
            (BATCHES, "cancel", "POST"): batches.cancel,
        }

    @staticmethod
    def takes(path: str) -> bool:
        return path in (FILES, BATCHES) or path.startswith((f"{FILES}/", f"{BATCHES}/"))

    async def answer(self, asker: Asker) -> None:
        """Raises errors, which become OpenAI's error objects."""
        path = asker.call.path
        root = FILES if path.startswith(FILES) else BATCHES
        if not self._there:
            asker.call.path = root  # for metrics: what clients make up is not counted
            raise NotSupported(f"files and batches are not supported: this {self._called} has no `batch_store`")
        if path == root:
            await self._collection(root, asker)
        else:
            await self._one(root, path.removeprefix(f"{root}/"), asker)

    async def _collection(self, root: str, asker: Asker) -> None:
        asker.call.want(asker.wire, "GET", "POST")
        if asker.call.method == "POST":
            await asker.wire.within_limits(self._creating[root](asker), asker.cut)
            return
        await asker.wire.read_body(_NO_BODY)
        await asker.wire.unless_gone(self._listing[root](asker), asker.cut)

    async def _one(self, root: str, rest: str, asker: Asker) -> None:
        name, _, action = rest.partition("/")
        path = asker.call.path = f"{root}/{{id}}" + (f"/{action}" if action else "")
        methods = [method for of, known, method in self._acting if (of, known) == (root, action)]
        if not methods:
            raise NotFound(f"there is no {path[:100]} here")
        asker.call.want(asker.wire, *methods)
        await asker.wire.read_body(_NO_BODY)
        if not _IDS[root].fullmatch(name):  # and no key in etcd is made of it
            raise NotFound(f"there is no {'file' if root == FILES else 'batch'} {name[:80]}")
        await asker.wire.unless_gone(self._acting[root, action, asker.call.method](name, asker), asker.cut)
