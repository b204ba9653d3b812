"""A folder into which files are put as long as the job runs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from serving.batch.sources.files import FileSource, listed, plan_of
from serving.batch.sources.splits import Listed
from serving.errors import InvalidArgument, NotFound

if TYPE_CHECKING:
    from ray.data import Dataset

JsonObject = Mapping[str, Any]
END: Final = "_END"


class FolderSource:
    """What has arrived is a batch, the oldest files first. A file named `_END` says that there will be no more.

    Files must appear whole: written elsewhere, or under a name that begins with `.` or `_`, and renamed. Those that
    are published may be removed; names are not used twice.
    """

    bounded = False

    def __init__(
        self, files: FileSource, *, poll_s: float = 1.0, max_files: int = 1000, max_bytes: int = 1 << 30
    ) -> None:
        """`files`: their kind and the one folder. A batch takes at most `max_files`, and no more after `max_bytes`:
        the others wait in the folder, where whoever makes them sees how many (`backlog`)."""
        if len(files.paths) != 1 or not Path(files.paths[0]).is_dir():
            raise InvalidArgument(f"a folder that grows must be one folder that is there, not {', '.join(files.paths)}")
        if max_files < 1 or max_bytes < 1 or poll_s <= 0:
            raise InvalidArgument("max_files, max_bytes and poll_s of a folder must be above 0")
        self._files = files
        self._folder = Path(files.paths[0])
        self.poll_s = poll_s
        self._max_files = max_files
        self._max_bytes = max_bytes

    def describe(self) -> JsonObject:
        return {**self._files.describe(), "follow": True}

    def plan(self, position: JsonObject) -> JsonObject | None:
        taken: list[Listed] = []
        nbytes = 0
        for file in self.backlog(position):
            if len(taken) == self._max_files or nbytes >= self._max_bytes:
                break
            taken.append(file)
            nbytes += file.size
        return plan_of(taken) if taken else None

    def ended(self, position: JsonObject) -> bool:
        # The flag first: what came before it is seen then.
        return (self._folder / END).exists() and not self.backlog(position)

    def advance(self, position: JsonObject, plan: JsonObject) -> JsonObject:
        """Names of files that are gone are forgotten, or they would grow for ever."""
        names = {*position.get("taken", ()), *(name for name, _, _ in plan["files"])}
        return {"taken": sorted(name for name in names if (self._folder / name).exists())}

    def read(self, plan: JsonObject) -> Dataset:
        return self._files.read(plan)

    def rows(self, plan: JsonObject) -> int | None:
        return self._files.rows(plan)

    def backlog(self, position: JsonObject) -> list[Listed]:
        """Files (name, path, size) that no batch has taken, oldest first."""
        try:
            found = listed([str(self._folder)], self._files.suffixes)
        except NotFound:
            return []
        taken = set(position.get("taken", ()))
        waiting = [file for file in found if file.name not in taken]
        return sorted(waiting, key=lambda file: (os.stat(file.path).st_mtime_ns, file.name))
