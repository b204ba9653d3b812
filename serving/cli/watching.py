"""`--watch`: a table that follows on a terminal, a line per change elsewhere, an object per change as JSON."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from serving.cli import shapes
from serving.cli.options import Settings
from serving.cli.output import print_json, table
from serving.errors import NotFound

if TYPE_CHECKING:
    from serving._proto import records_pb2 as pb
    from serving.sdk import AppEvent, AppStatus, Connection
    from serving.store.keys import AppKey


async def watch_status(settings: Settings, key: AppKey | None) -> None:
    """Follows applications until interrupted; of one `key`, until it is deleted. Raises `NotFound`."""
    from serving.cli.tables import APP_HEADERS, one_application, row
    from serving.sdk import AsyncMeshClient

    known: dict[AppKey, AppStatus] = {}
    shown: dict[AppKey, str] = {}

    def text() -> str:
        if key is not None and key in known:
            return one_application(known[key])
        return table(APP_HEADERS, [row(known[name]) for name in sorted(known)])

    async with AsyncMeshClient(settings.connection()) as client:
        if key is not None:
            await client.status(key)  # NotFound before anything is shown
        screen = _Screen(text)
        with screen:
            async for event in client.watch(key or "", namespace=settings.namespace):
                if event.deleted:
                    known.pop(event.status.app, None)
                else:
                    known[event.status.app] = event.status
                _tell(settings, screen, event, shown)
                if event.deleted and key is not None:
                    return


async def watch_endpoints(settings: Settings, key: AppKey | None, role: str) -> None:
    """Follows the endpoints of one application or of all until interrupted. Raises `NotFound` for one unknown."""
    from serving._proto import records_pb2 as records
    from serving.cli.tables import endpoint_table
    from serving.store import Changes, EtcdClient, Resync, keys
    from serving.store.records import decode

    known: dict[str, pb.Endpoint] = {}

    def text() -> str:
        if not known:
            return f"{key or 'the mesh'} has no endpoints"
        return endpoint_table(tuple(known[name] for name in sorted(known)))

    connection = settings.connection()
    if key is not None:
        await _require(connection, key)
    everywhere = keys.ENDPOINTS + (f"{settings.namespace}/" if settings.namespace else "")
    store = EtcdClient(connection.etcd)
    try:
        with _Screen(text) as screen:
            async for event in store.watch(keys.endpoints(key, role) if key else everywhere):
                before = dict(known)
                if isinstance(event, Resync):
                    known.clear()
                if isinstance(event, Resync | Changes):
                    puts = event.snapshot.kvs if isinstance(event, Resync) else event.puts
                    found = {kv.key: decode(records.Endpoint, kv.value) for kv in puts}
                    known.update({name: item for name, item in found.items() if not role or item.role == role})
                    for gone in event.deletes if isinstance(event, Changes) else ():
                        known.pop(gone, None)
                    _tell_endpoints(settings, screen, before, known)
                else:
                    click.echo(f"etcd does not answer; the last known endpoints stay ({event.error.message})", err=True)
    finally:
        await store.close()


async def _require(connection: Connection, key: AppKey) -> None:
    """Raises `NotFound` for an application that is not stored: nothing of it would ever be seen."""
    from serving.sdk import AsyncMeshClient

    async with AsyncMeshClient(connection) as client:
        try:
            await client.status(key)
        except NotFound as error:
            raise NotFound(f"{error.message} (`mesh status` lists them)") from error


class _Screen:
    """Redraws on a terminal; elsewhere it does nothing and `live` is False."""

    def __init__(self, text: Callable[[], str]) -> None:
        self._text = text
        self.live = sys.stdout.isatty()
        self._display: object = None

    def __enter__(self) -> _Screen:
        return self

    def draw(self) -> None:
        from rich.live import Live
        from rich.text import Text

        if not isinstance(self._display, Live):
            self._display = Live(auto_refresh=False, transient=False)
            self._display.start()
        self._display.update(Text.from_ansi(self._text()), refresh=True)

    def __exit__(self, *_: object) -> None:
        from rich.live import Live

        if isinstance(self._display, Live):
            self._display.stop()


def _tell(settings: Settings, screen: _Screen, event: AppEvent, shown: dict[AppKey, str]) -> None:
    """`shown` is what was last said of each application: what changed beside it is not worth the same words again."""
    if settings.as_json:
        word = "deleted" if event.deleted else "changed"
        print_json({"event": word, "application": shapes.application(event.status)})
        return
    if screen.live:
        screen.draw()
        return
    line = _line(event)
    if shown.get(event.status.app) != line:
        click.echo(line)
    shown[event.status.app] = line


def _line(event: AppEvent) -> str:
    status = event.status
    word = "DELETED" if event.deleted else status.phase
    return f"{status.app}  {word}  {status.cluster or '-'}  revision {status.revision}  {status.message}".rstrip()


def _tell_endpoints(
    settings: Settings, screen: _Screen, before: dict[str, pb.Endpoint], known: dict[str, pb.Endpoint]
) -> None:
    if screen.live and not settings.as_json:
        screen.draw()
        return
    changed = [
        ("added" if name not in before else "changed", item)
        for name, item in sorted(known.items())
        if before.get(name) != item
    ]
    removed = [("removed", item) for name, item in sorted(before.items()) if name not in known]
    for word, item in (*changed, *removed):
        if settings.as_json:
            print_json({"event": word, "endpoint": shapes.endpoint(item)})
        else:
            name = f"{item.namespace}/{item.application}  {item.id}"
            click.echo(f"{word}  {name}  {item.role}  {item.state}  {item.address}  {item.cluster}")
