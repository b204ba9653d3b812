"""`mesh deploy`, `delete`, `revisions` and `rollback`: what changes applications."""

from __future__ import annotations

import asyncio
import getpass
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from serving.cli import names, shapes
from serving.cli.options import APPLICATIONS, Settings, command
from serving.cli.output import print_json, table
from serving.cli.waiting import Waiting
from serving.errors import InvalidArgument

if TYPE_CHECKING:
    from serving._proto import records_pb2 as pb
    from serving.sdk import Application, DeployResult

TIMEOUT = click.option(
    "--timeout", type=click.FloatRange(0.1), default=300.0, show_default=True, help="Seconds to wait at most."
)
WAIT = click.option("--wait/--no-wait", default=True, show_default=True, help="Return when the revision is ready.")


@command(*APPLICATIONS)
@click.argument("spec", type=click.Path(path_type=Path))
@WAIT
@click.option("--dry-run", is_flag=True, help="Check the spec and say where it would be placed; no revision is made.")
@click.option("--if-revision", type=click.IntRange(0), default=0, help="Only if this is the current revision.")
@TIMEOUT
def deploy(settings: Settings, *, spec: Path, wait: bool, dry_run: bool, if_revision: int, timeout: float) -> None:
    """Store the application of the YAML file SPEC as a new revision.

    An unchanged spec makes no new revision. Folders with models are packed and stored first.
    """
    application = _load(settings, spec)
    with Waiting(f"deploying {application.name}", quiet=settings.as_json) as waiting:
        wish = _Wish(application, wait and not dry_run, dry_run, if_revision, timeout)
        result = asyncio.run(_deploy(settings, wish, waiting))
    show(settings, result, dry_run=dry_run)


@command(*APPLICATIONS)
@click.argument("app", shell_complete=names.applications)
@click.option("--wait/--no-wait", default=True, show_default=True, help="Return when it is gone.")
@click.option("--queues", is_flag=True, help="Remove the requests that its brokers keep, too.")
@TIMEOUT
def delete(settings: Settings, *, app: str, wait: bool, queues: bool, timeout: float) -> None:
    """Drain and remove the application APP with all its revisions. Journals of its brokers stay without --queues."""
    from serving.cli.queue_left import Removal
    from serving.sdk import AsyncMeshClient

    key = settings.app(app)

    async def work() -> Removal:
        async with AsyncMeshClient(settings.connection()) as client:
            removal = Removal(client, key, discard=queues, timeout_s=timeout)
            async with removal:
                await client.delete(key, wait=wait, timeout_s=timeout)
            return removal

    with Waiting(f"deleting {key}", quiet=settings.as_json):
        removal = asyncio.run(work())
    if settings.as_json:
        print_json({"namespace": key.namespace, "name": key.name, "gone": wait, "queues": removal.shape()})
    else:
        click.echo(f"{key} is deleted" if wait else f"{key} is being deleted")
        for line in removal.lines():
            click.echo(line)


@command(*APPLICATIONS)
@click.argument("app", shell_complete=names.applications)
def revisions(settings: Settings, *, app: str) -> None:
    """Show the stored revisions of APP, newest first."""
    from serving.sdk import AsyncMeshClient

    key = settings.app(app)

    async def work() -> tuple[pb.StoredSpec, ...]:
        async with AsyncMeshClient(settings.connection()) as client:
            return await client.revisions(key)

    with Waiting(f"asking a keeper for the revisions of {key}", quiet=settings.as_json):
        found = asyncio.run(work())
    if settings.as_json:
        print_json({"namespace": key.namespace, "name": key.name, "revisions": [shapes.revision(one) for one in found]})
        return
    rows = []
    for one in found:
        shape = shapes.revision(one)
        parts = ", ".join(f"{item['name']} x{item['replicas']}" for item in shape["deployments"])
        created = (shape["created_at"] or "-").partition(".")[0].replace("T", " ")
        rows.append((one.revision, created, one.author or "-", parts, one.note))
    click.echo(table(("REVISION", "CREATED (UTC)", "AUTHOR", "DEPLOYMENTS", "NOTE"), rows))


@command(*APPLICATIONS)
@click.argument("app", shell_complete=names.applications)
@click.argument("revision", type=click.IntRange(1))
@WAIT
@TIMEOUT
def rollback(settings: Settings, *, app: str, revision: int, wait: bool, timeout: float) -> None:
    """Store the spec of an older REVISION of APP as a new one."""
    roll_back(settings, app, revision, wait=wait, timeout_s=timeout)


def roll_back(settings: Settings, app: str, revision: int, *, wait: bool, timeout_s: float) -> None:
    """Goes back to `revision`, 0 for the one before the current one, and shows what came of it."""
    from serving.sdk import AsyncMeshClient

    key = settings.app(app)

    async def work(waiting: Waiting) -> DeployResult:
        async with AsyncMeshClient(settings.connection()) as client:
            return await client.rollback(
                key, revision, wait=wait, timeout_s=timeout_s, author=author(), on_progress=waiting
            )

    where = f"to revision {revision}" if revision else "to the revision before"
    with Waiting(f"rolling {key} back {where}", quiet=settings.as_json) as waiting:
        result = asyncio.run(work(waiting))
    show(settings, result, dry_run=False)


def _load(settings: Settings, path: Path) -> Application:
    """The application, in the namespace of `--namespace` where that is given. Raises `SpecError`."""
    from dataclasses import replace

    from serving.sdk import load_spec

    application = load_spec(path)
    if not settings.namespace or settings.namespace == application.namespace:
        return application
    if application.namespace != "default":
        raise InvalidArgument(
            f"{path} names namespace {application.namespace}, --namespace says {settings.namespace}; leave one out"
        )
    return replace(application, namespace=settings.namespace)


@dataclass(frozen=True, slots=True)
class _Wish:
    application: Application
    wait: bool
    dry_run: bool
    if_revision: int
    timeout_s: float


async def _deploy(settings: Settings, wish: _Wish, waiting: Waiting) -> DeployResult:
    from serving.sdk import AsyncMeshClient

    async with AsyncMeshClient(settings.connection()) as client:
        return await client.deploy(
            wish.application,
            wait=wish.wait,
            dry_run=wish.dry_run,
            if_revision=wish.if_revision,
            timeout_s=wish.timeout_s,
            author=author(),
            on_progress=waiting,
        )


def show(settings: Settings, result: DeployResult, *, dry_run: bool) -> None:
    """What a call that stores a revision answered."""
    if settings.as_json:
        print_json(shapes.deployed(result))
        return
    name = f"{result.namespace}/{result.name}"
    if dry_run and result.would_place is not None:
        word, already = ("would become", "") if result.changed else ("is", " already")
        click.echo(f"{name} {word} revision {result.revision}{already}")
        for line in _place(result.would_place):
            click.echo(line)
        return
    word = "stored" if result.changed else "unchanged"
    click.echo(f"{name} revision {result.revision} {word}")
    if result.status is not None:
        click.echo(f"{result.status.phase} on {result.status.cluster}")


def _place(decision: pb.Decision) -> list[str]:
    if decision.cluster:
        return [f"it would run on {decision.cluster} ({decision.why})"]
    return ["it fits on no cluster now:"] + [f"  {item.cluster or '*'}: {item.reason}" for item in decision.reasons]


def author() -> str:
    """Who asks, for the history of revisions; empty where the user has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""  # as in some containers
