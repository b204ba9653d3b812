"""`mesh rollout`: how far a new revision is, and holding it, letting it go on, promoting it, and taking it back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click

from serving.cli import names
from serving.cli.deploying import TIMEOUT, WAIT, roll_back
from serving.cli.exits import EPILOG
from serving.cli.options import APPLICATIONS, Settings, command
from serving.cli.output import coloured, print_json, table
from serving.cli.shapes import canary
from serving.cli.tables import canary_text
from serving.cli.waiting import Waiting

if TYPE_CHECKING:
    from serving.sdk import AppStatus


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
def rollout() -> None:
    """Follow the rollout of a new revision, pause and resume it, promote its canary, or undo it."""


@command(*APPLICATIONS)
@click.argument("app", shell_complete=names.applications)
def status(settings: Settings, *, app: str) -> None:
    """Show how many replicas of each deployment of APP are of the current revision."""
    from serving.sdk import AsyncMeshClient

    key = settings.app(app)

    async def work() -> AppStatus:
        async with AsyncMeshClient(settings.connection()) as client:
            return await client.status(key)

    with Waiting(f"asking a keeper for {key}", quiet=settings.as_json):
        shape = shape_of(asyncio.run(work()))
    if settings.as_json:
        print_json(shape)
        return
    paused = ", paused" if shape["paused"] else ""
    click.echo(f"{key}  {coloured(shape['phase'])}, revision {shape['revision']}{paused}")
    rows = [(one["name"], one["wanted"], one["new"], one["old"], one["reason"]) for one in shape["deployments"]]
    if rows:
        click.echo(table(("DEPLOYMENT", "WANTED", "NEW READY", "OLD READY", "REASON"), rows))
    for one in shape["deployments"]:
        if one["canary"] is not None:
            click.echo(f"canary of {one['name']}: {canary_text(one['canary'])}")


def shape_of(item: AppStatus) -> dict[str, Any]:
    """`new` are ready replicas as the current revision wants them, `old` those that are still to be replaced."""
    deployments = []
    for one in item.deployments:
        old = one.old_ready
        deployments.append(
            {
                "name": one.name,
                "wanted": one.wanted,
                "new": one.ready - old,
                "old": old,
                "reason": one.reason,
                "canary": canary(one),
            }
        )
    return {
        "namespace": item.namespace,
        "name": item.name,
        "phase": item.phase,
        "revision": item.revision,
        "serving_revision": item.serving_revision,
        "paused": item.paused,
        "complete": item.ready,
        "deployments": deployments,
    }


@command(*APPLICATIONS)
@click.argument("app", shell_complete=names.applications)
def pause(settings: Settings, *, app: str) -> None:
    """Replace no further replicas of APP, nor for later revisions, until it is resumed. What dies is still replaced."""
    _turn(settings, app, paused=True)


@command(*APPLICATIONS)
@click.argument("app", shell_complete=names.applications)
def resume(settings: Settings, *, app: str) -> None:
    """Let the paused rollout of APP go on."""
    _turn(settings, app, paused=False)


def _turn(settings: Settings, app: str, *, paused: bool) -> None:
    from serving.sdk import AsyncMeshClient

    key = settings.app(app)

    async def work() -> bool:
        async with AsyncMeshClient(settings.connection()) as client:
            return await (client.pause_rollout(key) if paused else client.resume_rollout(key))

    with Waiting(f"{'pausing' if paused else 'resuming'} {key}", quiet=settings.as_json):
        changed = asyncio.run(work())
    if settings.as_json:
        print_json({"namespace": key.namespace, "name": key.name, "paused": paused, "changed": changed})
        return
    state = "paused" if paused else "going on"
    click.echo(f"the rollout of {key} is {state}{'' if changed else ' already'}")


@command(*APPLICATIONS)
@click.argument("app", shell_complete=names.applications)
@click.option("--full", is_flag=True, help="Pass all steps that are left.")
def promote(settings: Settings, *, app: str, full: bool) -> None:
    """Let the canary of APP pass the step at which it is, whatever it waits for. A canary that fails still fails."""
    from serving.sdk import AsyncMeshClient

    key = settings.app(app)

    async def work() -> bool:
        async with AsyncMeshClient(settings.connection()) as client:
            return await client.promote_rollout(key, full=full)

    with Waiting(f"promoting {key}", quiet=settings.as_json):
        changed = asyncio.run(work())
    if settings.as_json:
        print_json({"namespace": key.namespace, "name": key.name, "full": full, "changed": changed})
        return
    click.echo(f"the canary of {key} is promoted{'' if changed else ' already'}")


@command(*APPLICATIONS)
@click.argument("app", shell_complete=names.applications)
@click.option("--to", "revision", type=click.IntRange(1), help="The revision to go back to.  [default: the one before]")
@WAIT
@TIMEOUT
def undo(settings: Settings, *, app: str, revision: int | None, wait: bool, timeout: float) -> None:
    """Store the spec of the revision before the current one of APP as a new one; a pause ends with it."""
    roll_back(settings, app, revision or 0, wait=wait, timeout_s=timeout)


for made in (status, pause, resume, promote, undo):
    rollout.add_command(made)
