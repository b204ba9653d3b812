"""`mesh queue`: the requests that wait at the brokers of an application."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from serving.cli.exits import EPILOG
from serving.cli.journals import journals
from serving.cli.names import applications
from serving.cli.options import APPLICATIONS, Settings, command
from serving.cli.output import ago, print_json, table
from serving.cli.waiting import Waiting
from serving.errors import InvalidArgument

if TYPE_CHECKING:
    from datetime import datetime

    from serving.sdk import CallbackStatus, QueueItem, QueueStatistics
    from serving.sdk.queue import QueueClient
    from serving.store.keys import AppKey

T = TypeVar("T")
_STATES: Final = ("queued", "running", "succeeded", "failed", "dead", "cancelled", "expired")
_APP: Final = click.argument("app", shell_complete=applications)
_ID: Final = click.argument("item", metavar="ID")


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
def queue() -> None:
    """Look at the requests that wait at an application's brokers, cancel them, and try them again."""


@command(*APPLICATIONS)
@_APP
@click.option("--deployment", default="", help="Only requests for this deployment.")
@click.option("--tenant", default="", help="Only those of this tenant.")
@click.option("--state", "states", multiple=True, type=click.Choice(_STATES), help="Only these; repeatable.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 10_000), help="At most so many.")
def list_(settings: Settings, *, app: str, deployment: str, tenant: str, states: tuple[str, ...], limit: int) -> None:
    """Show the requests of APP, the oldest first. The dead ones: --state dead."""
    key = settings.app(app)
    wanted = [state.upper() for state in states]
    found = _ask(
        settings,
        f"reading the queues of {key}",
        lambda client: client.list(key, deployment=deployment, tenant=tenant, states=wanted, limit=limit),
    )
    if settings.as_json:
        print_json({"application": str(key), "items": [shape(item) for item in found]})
        return
    if not found:
        click.echo("no requests")
        return
    rows = [(*_plain(one), _ago(one.submitted), one.reason) for one in found]
    click.echo(table(("ID", "STATE", "DEPLOYMENT", "TENANT", "PRIORITY", "ATTEMPTS", "SUBMITTED", "REASON"), rows))


@command(*APPLICATIONS)
@_APP
@_ID
def show(settings: Settings, *, app: str, item: str) -> None:
    """Show one request of APP. Its result is only for who has its ticket."""
    _one(settings, app, item, "reading", lambda client, key: client.item(key, item))


@command(*APPLICATIONS)
@_APP
@_ID
def cancel(settings: Settings, *, app: str, item: str) -> None:
    """Cancel a request of APP: one that waits is gone, one that runs is told to stop."""
    _one(settings, app, item, "cancelling", lambda client, key: client.cancel(key, item))


@command(*APPLICATIONS)
@_APP
@_ID
def retry(settings: Settings, *, app: str, item: str) -> None:
    """Put a request of APP back that is DEAD, EXPIRED or CANCELLED, with its attempts forgotten."""
    _one(settings, app, item, "putting back", lambda client, key: client.retry(key, item))


@command(*APPLICATIONS)
@_APP
def stats(settings: Settings, *, app: str) -> None:
    """Show how much waits and runs for each deployment of APP, at each of its brokers."""
    key = settings.app(app)
    found = _ask(settings, f"reading the queues of {key}", lambda client: client.statistics(key))
    if settings.as_json:
        print_json({"application": str(key), "queues": [statistics_shape(row) for row in found]})
        return
    headers = (
        "BROKER",
        "STATE",
        "DEPLOYMENT",
        "QUEUED",
        "RUNNING",
        "DEAD",
        "OLDEST",
        "REPLICAS",
        "CREDITS",
        "DONE",
        "REQUEUED",
    )
    rows = [
        (
            row.broker,
            "drained" if row.drained else "ready",
            row.deployment,
            row.queued,
            row.running,
            row.dead,
            f"{row.oldest_age_s:.0f}s" if row.queued else "-",
            row.replicas,
            row.credits,
            row.succeeded + row.failed,
            row.requeued,
        )
        for row in found
    ]
    click.echo(table(headers, rows) if rows else "nothing was submitted yet")


@command(*APPLICATIONS)
@_APP
@click.argument("broker", required=False, default="")
@click.option("--undo", is_flag=True, help="Take new requests again.")
def drain(settings: Settings, *, app: str, broker: str, undo: bool) -> None:
    """Have BROKER, or all brokers of APP, take no new requests. What waits there is worked off."""
    key = settings.app(app)
    found = _ask(settings, f"telling the brokers of {key}", lambda client: client.drain(key, broker, undo=undo))
    if settings.as_json:
        brokers = [{name: getattr(one, name) for name in type(one).__slots__} for one in found]
        print_json({"application": str(key), "brokers": brokers})
        return
    for one in found:
        state = "is drained" if one.drained else "takes new requests"
        click.echo(f"{one.broker} {state}: {one.live} requests wait or run there, {one.items} are kept with results")


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
def callbacks() -> None:
    """Look at the callbacks of ended requests that were given up, or are due, and send them again."""


@command(*APPLICATIONS)
@_APP
@click.option("--state", default="dead", show_default=True, type=click.Choice(("dead", "due")), help="Which ones.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 10_000), help="At most so many.")
def list_callbacks(settings: Settings, *, app: str, state: str, limit: int) -> None:
    """Show the requests of APP whose callbacks were given up, or are due."""
    key = settings.app(app)
    found = _ask(
        settings,
        f"reading the callbacks of {key}",
        lambda client: client.callbacks(key, state=state.upper(), limit=limit),
    )
    if settings.as_json:
        print_json({"application": str(key), "items": [shape(item) for item in found]})
        return
    rows = [
        (item.id, item.state, one.state, one.tries, one.status or "-", _ago(one.due), one.url, one.reason)
        for item in found
        if (one := item.callback) is not None
    ]
    headers = ("ID", "ENDED", "CALLBACK", "TRIES", "STATUS", "SINCE", "URL", "REASON")
    click.echo(table(headers, rows) if rows else f"no callbacks that are {state}")


@command(*APPLICATIONS)
@_APP
@_ID
def retry_callback(settings: Settings, *, app: str, item: str) -> None:
    """Send the callback of a request of APP again: one that was given up anew, one that is due at once."""
    _one(settings, app, item, "sending again", lambda client, key: client.retry_callback(key, item))


def _one(
    settings: Settings,
    app: str,
    item: str,
    doing: str,
    work: Callable[[QueueClient, AppKey], Awaitable[QueueItem]],
) -> None:
    key = settings.app(app)
    if item.count(".") != 1:
        raise InvalidArgument(f"`{item[:100]}` is no id of a request, such as those that `mesh queue list {app}` shows")
    found = _ask(settings, f"{doing} {item}", lambda client: work(client, key))
    if settings.as_json:
        print_json(shape(found))
        return
    click.echo(f"{found.id}  {found.state}")
    labels = ", ".join(f"{name}={value}" for name, value in sorted(found.labels.items()))
    for name, value in (
        ("deployment", found.deployment),
        ("tenant", found.tenant),
        ("priority", found.priority),
        ("labels", labels),
        ("attempts", str(found.attempts)),
        ("replica", found.replica),
        ("submitted", _ago(found.submitted)),
        ("started", _ago(found.started)),
        ("ended", _ago(found.ended)),
        ("deadline", found.deadline.isoformat() if found.deadline else ""),
        ("bytes", str(found.bytes)),
        ("reason", found.reason),
        *_callback_lines(found.callback),
    ):
        if value and value != "-":
            click.echo(f"  {name:<11}{value}")


def _callback_lines(callback: CallbackStatus | None) -> tuple[tuple[str, str], ...]:
    if callback is None:
        return ()
    status = f", status {callback.status}" if callback.status else ""
    tried = f", {callback.tries} tries{status}" if callback.tries else ""
    why = f": {callback.reason}" if callback.reason else ""
    return (("callback", f"{callback.url} {callback.state}{tried}{why}"),)


def _plain(item: QueueItem) -> tuple[object, ...]:
    return item.id, item.state, item.deployment, item.tenant or "-", item.priority, item.attempts


def shape(item: QueueItem) -> dict[str, Any]:
    """As JSON."""
    times = {f"{name}_at": _iso(getattr(item, name)) for name in ("submitted", "started", "ended", "deadline")}
    plain = ("id", "state", "deployment", "tenant", "priority", "attempts", "replica", "reason", "bytes", "progress")
    made = {name: getattr(item, name) for name in plain} | {"labels": dict(item.labels)} | times
    one = item.callback
    if one is not None:
        told = {name: getattr(one, name) for name in ("state", "url", "secret", "tries", "status", "reason")}
        made["callback"] = told | {"due_at": _iso(one.due), "next_at": _iso(one.next)}
    return made


def statistics_shape(row: QueueStatistics) -> dict[str, Any]:
    """As JSON."""
    return {name: getattr(row, name) for name in type(row).__slots__}


def _iso(when: datetime | None) -> str | None:
    return when.isoformat() if when is not None else None


def _ago(when: datetime | None) -> str:
    return ago(when.timestamp(), time.time()) if when is not None else "-"


def _ask(settings: Settings, doing: str, work: Callable[[QueueClient], Awaitable[T]]) -> T:
    from serving.sdk import AsyncMeshClient

    async def ask() -> T:
        async with AsyncMeshClient(settings.connection()) as client:
            return await work(client.queue)

    with Waiting(doing, quiet=settings.as_json):
        return asyncio.run(ask())


for word, made in (
    ("list", list_),
    ("show", show),
    ("cancel", cancel),
    ("retry", retry),
    ("stats", stats),
    ("drain", drain),
    ("journals", journals),
):
    queue.add_command(made, word)
for word, made in (("list", list_callbacks), ("retry", retry_callback)):
    callbacks.add_command(made, word)
queue.add_command(callbacks)
