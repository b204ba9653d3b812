"""`mesh logs`: the files that masters and replicas write, merged by time, and followed."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click

from serving.cli import names
from serving.cli.log_tail import Source, Tail, last_lines, record_of
from serving.cli.logs_elsewhere import elsewhere
from serving.cli.options import APPLICATIONS, Settings, command
from serving.cli.output import print_json
from serving.errors import InvalidArgument, NotFound
from serving.store.keys import AppKey

POLL_S = 0.2
_LEVELS = {"debug": "blue", "warning": "yellow", "error": "red"}
_OWN_KEYS = frozenset(("ts", "level", "msg", "logger"))


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
    for source, line in last_lines(list(tails.values()), tail, show.wants):
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


class _Printer:
    """Shows a line: JSON records as text for people, everything else as it is."""

    def __init__(self, as_json: bool, level: str) -> None:
        self._as_json = as_json
        order = ("debug", "info", "warning", "error")
        self._shown = set(order[order.index(level) :])

    def wants(self, line: str) -> bool:
        """Whether it is of the level that was asked for; a line that has none is."""
        record = record_of(line)
        return not record or str(record.get("level", "info")) in self._shown

    def __call__(self, source: Source, line: str) -> None:
        if not self.wants(line):
            return
        record = record_of(line)
        if self._as_json:
            print_json({"source": source.name, "record": record or None, "line": line})
        else:
            click.echo(f"{source.name}  {_text(record) if record else line}")


def _text(record: dict[str, Any]) -> str:
    level = str(record.get("level", ""))
    more = "  ".join(f"{name}={value}" for name, value in record.items() if name not in _OWN_KEYS)
    word = click.style(level.upper(), fg=_LEVELS[level]) if level in _LEVELS and sys.stdout.isatty() else level.upper()
    return f"{record.get('ts', '')} {word} {record.get('msg', '')}  {more}".rstrip()
