"""`mesh logs`: the files that masters and replicas write, merged by time, and followed."""

from __future__ import annotations

import heapq
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import click

from serving.cli import names
from serving.cli.logs_elsewhere import elsewhere
from serving.cli.options import APPLICATIONS, Settings, command
from serving.cli.output import print_json
from serving.errors import InvalidArgument, NotFound
from serving.store.keys import AppKey

POLL_S = 0.2
_LEVELS = {"debug": "blue", "warning": "yellow", "error": "red"}
_OWN_KEYS = frozenset(("ts", "level", "msg", "logger"))


@dataclass(frozen=True, slots=True)
class Source:
    """One log file, and what its lines are called."""

    name: str
    path: Path


@dataclass(slots=True)
class Tail:
    """A file that is read as it grows; a file that is replaced or cut is read from its beginning."""

    source: Source
    _file: TextIO | None = None
    _inode: int = 0
    _rest: str = field(default="")

    def lines(self) -> list[str]:
        """The full lines that were added since the last call."""
        self._open()
        if self._file is None:
            return []
        text = self._rest + self._file.read()
        *full, self._rest = text.split("\n")
        return full

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> None:
        try:
            found = self.source.path.stat()
        except FileNotFoundError:
            return
        if self._file is not None and (found.st_ino != self._inode or found.st_size < self._file.tell()):
            self.close()
            self._rest = ""
        if self._file is None:
            self._file = self.source.path.open(encoding="utf-8", errors="replace")
            self._inode = found.st_ino


@command(*APPLICATIONS)
@click.argument("what", metavar="APP[/DEPLOYMENT[/REPLICA]]", shell_complete=names.deployments)
@click.option("-f", "--follow", is_flag=True, help="Go on showing new lines until Ctrl-C.")
@click.option("--tail", type=click.IntRange(0), default=200, show_default=True, help="At most so many lines at first.")
@click.option("--level", type=click.Choice(["debug", "info", "warning", "error"]), default="debug", help="And above.")
def logs(settings: Settings, *, what: str, follow: bool, tail: int, level: str) -> None:
    """Show the logs of an application's master and replicas, of one deployment, or of one replica.

    The files lie in the mesh's folder under logs/; those of replicas that are gone stay there. Files of other machines
    are not read: they are named, with the node that has them.
    """
    key, deployment, replica = _target(settings, what)
    folder = settings.folder()
    found = sources(folder, key, deployment, replica)
    missing, problem = elsewhere(settings, key, deployment, replica, {source.path for source in found})
    if not found and not follow:
        named = "".join(f"\n  {text}" for text in missing)
        raise NotFound(_nothing(folder, key, deployment, replica) + (f"; {problem}" if problem else "") + named)
    for text in missing:
        click.echo(text, err=True)
    show = _Printer(settings.as_json, level)
    tails = {source.path: Tail(source) for source in found}
    for source, line in last_lines(list(tails.values()), tail):
        show(source, line)
    if follow:
        _follow(folder, (key, deployment, replica), tails, show)


def sources(folder: Path, key: AppKey, deployment: str, replica: str) -> list[Source]:
    """The log files that are there, the master's first."""
    logs_dir = folder / "logs"
    found = []
    master = logs_dir / "masters" / f"{key.namespace}.{key.name}.log"
    if not deployment and master.is_file():
        found.append(Source("master", master))
    root = logs_dir / "replicas" / key.namespace / key.name
    pattern = f"{deployment or '*'}/{replica or '*'}.log"
    found += [Source(path.stem, path) for path in sorted(root.glob(pattern)) if path.is_file()]
    return found


def last_lines(tails: list[Tail], count: int) -> list[tuple[Source, str]]:
    """The newest `count` lines of all files, in the order of their times."""
    streams = [_timed(tail) for tail in tails]
    merged = [(source, line) for _, _, _, source, line in heapq.merge(*streams, key=lambda item: item[:3])]
    return merged[-count:] if count else []


def _timed(tail: Tail) -> Iterator[tuple[str, str, int, Source, str]]:
    """Lines with their times; a line without one belongs to the line before."""
    moment = ""
    for number, line in enumerate(tail.lines()):
        moment = max(moment, str(_record(line).get("ts", "")))
        yield moment, tail.source.name, number, tail.source, line


def _follow(folder: Path, target: tuple[AppKey, str, str], tails: dict[Path, Tail], show: _Printer) -> None:
    try:
        while True:
            for source in sources(folder, *target):
                tails.setdefault(source.path, Tail(source))
            for tail in tails.values():
                for line in tail.lines():
                    show(tail.source, line)
            sys.stdout.flush()
            time.sleep(POLL_S)
    finally:
        for tail in tails.values():
            tail.close()


def _target(settings: Settings, what: str) -> tuple[AppKey, str, str]:
    """`app`, `app/deployment` or `app/deployment/replica`; the namespace is `--namespace`."""
    parts = what.split("/")
    if len(parts) > 3 or not all(parts):
        raise InvalidArgument(f"`{what}` is not APP, APP/DEPLOYMENT or APP/DEPLOYMENT/REPLICA")
    name, deployment, replica = (*parts, "", "")[:3]
    for part in (deployment, replica):
        if part:
            settings.app(part)  # the same rule for names
    return settings.app(name), deployment, replica


def _nothing(folder: Path, key: AppKey, deployment: str, replica: str) -> str:
    place = "/".join(part for part in (key.name, deployment, replica) if part)
    text = f"no logs of {place} (namespace {key.namespace}) in {folder / 'logs'}"
    root = folder / "logs" / "replicas" / key.namespace / key.name
    known = sorted(f"{path.parent.name}/{path.stem}" for path in root.glob("*/*.log"))
    if known:
        shown = ", ".join(known[:10]) + (" ..." if len(known) > 10 else "")
        return f"{text}; there are logs of: {shown}"
    return f"{text}; logs are written on the machine where a replica runs, in the mesh's folder (--dir)"


def _record(line: str) -> dict[str, Any]:
    """A line of JSON as its keys; {} for any other line."""
    if not line.startswith("{"):
        return {}
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


class _Printer:
    """Shows a line: JSON records as text for people, everything else as it is."""

    def __init__(self, as_json: bool, level: str) -> None:
        self._as_json = as_json
        order = ("debug", "info", "warning", "error")
        self._shown = set(order[order.index(level) :])

    def __call__(self, source: Source, line: str) -> None:
        record = _record(line)
        if record and str(record.get("level", "info")) not in self._shown:
            return
        if self._as_json:
            print_json({"source": source.name, "record": record or None, "line": line})
        else:
            click.echo(f"{source.name}  {_text(record) if record else line}")


def _text(record: dict[str, Any]) -> str:
    level = str(record.get("level", ""))
    more = "  ".join(f"{name}={value}" for name, value in record.items() if name not in _OWN_KEYS)
    word = click.style(level.upper(), fg=_LEVELS[level]) if level in _LEVELS and sys.stdout.isatty() else level.upper()
    return f"{record.get('ts', '')} {word} {record.get('msg', '')}  {more}".rstrip()
