"""`mesh split`: how requests are shared among the deployments of an application."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click

from serving.cli import names
from serving.cli.deploying import author, show
from serving.cli.options import APPLICATIONS, Settings, command
from serving.cli.output import print_json, table
from serving.cli.shapes import canary
from serving.cli.shapes import split as split_shape
from serving.cli.tables import canary_text
from serving.cli.waiting import Waiting
from serving.errors import InvalidArgument

if TYPE_CHECKING:
    from serving.sdk import AppStatus, DeployResult
    from serving.store.keys import AppKey


@command(*APPLICATIONS)
@click.argument("app", shell_complete=names.applications)
@click.argument("name", required=False)
@click.argument("weights", nargs=-1, metavar="[DEPLOYMENT=WEIGHT]...")
def split(settings: Settings, *, app: str, name: str | None, weights: tuple[str, ...]) -> None:
    """Show the traffic splits and canaries of APP, or give deployments of the split NAME other weights.

    New weights are a new revision that replaces no replica, so nothing is waited for. Deployments that are not named
    keep theirs; 0 is none.
    """
    key = settings.app(app)
    if name is None or not weights:
        _show(settings, key, name)
        return
    wanted = dict(_weight(text) for text in weights)
    from serving.sdk import AsyncMeshClient

    async def work(waiting: Waiting) -> DeployResult:
        async with AsyncMeshClient(settings.connection()) as client:
            return await client.split(key, name, wanted, author=author(), on_progress=waiting)

    with Waiting(f"splitting {name} of {key}", quiet=settings.as_json) as waiting:
        result = asyncio.run(work(waiting))
    show(settings, result, dry_run=False)


def _weight(text: str) -> tuple[str, int]:
    deployment, equals, weight = text.partition("=")
    if not (deployment and equals and weight.isascii() and weight.isdigit()):
        raise InvalidArgument(f"`{text}` is not DEPLOYMENT=WEIGHT, such as ranker-a=90")
    return deployment, int(weight)


def _show(settings: Settings, key: AppKey, name: str | None) -> None:
    from serving.errors import NotFound
    from serving.sdk import AsyncMeshClient

    async def work() -> AppStatus:
        async with AsyncMeshClient(settings.connection()) as client:
            return await client.status(key)

    with Waiting(f"asking a keeper for {key}", quiet=settings.as_json):
        status = asyncio.run(work())
    splits = [split_shape(one) for one in status.view.stored.spec.traffic]
    found = [one for one in splits if name in (None, one["name"])]
    if name is not None and not found:
        known = ", ".join(one["name"] for one in splits) or "none"
        raise NotFound(f"{key} has no traffic split {name} (it has: {known})")
    canaries = {one.name: canary(one) for one in status.deployments if one.HasField("canary") and name is None}
    if settings.as_json:
        print_json({"namespace": key.namespace, "name": key.name, "splits": found, "canaries": canaries})
        return
    _print(key, found, canaries)


def _print(key: AppKey, splits: list[dict[str, Any]], canaries: dict[str, Any]) -> None:
    if not splits and not canaries:
        click.echo(f"{key} has no traffic splits and no canaries: requests go by load")
        return
    rows = [
        (one["name"], one["model"] or "any", side["deployment"], side["weight"], f"{side['percent']:.3g} %")
        for one in splits
        for side in one["sides"]
    ]
    if rows:
        click.echo(table(("SPLIT", "MODEL", "DEPLOYMENT", "WEIGHT", "SHARE"), rows))
    for one in splits:
        if one["key"]:
            click.echo(f"{one['name']}: requests with the same `{one['key']}` get the same deployment")
        for match in one["matches"]:
            click.echo(f"{one['name']}: `{match['header']}: {match['value']}` goes to {match['deployment']}")
        if one["shadow"] is not None:
            click.echo(f"{one['name']}: {one['shadow']['percent']:g} % are copied to {one['shadow']['deployment']}")
    for name, told in canaries.items():
        click.echo(f"canary of {name}: {canary_text(told)}")
