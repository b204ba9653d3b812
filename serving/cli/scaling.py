"""`mesh scale`: other numbers of replicas for a deployment."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from serving.cli import names
from serving.cli.deploying import TIMEOUT, WAIT, author, show
from serving.cli.options import APPLICATIONS, Settings, command
from serving.cli.waiting import Waiting
from serving.errors import InvalidArgument

if TYPE_CHECKING:
    from serving.sdk import DeployResult


@command(*APPLICATIONS)
@click.argument("deployment", metavar="APP/DEPLOYMENT", shell_complete=names.applications)
@click.option("--replicas", type=click.IntRange(0), help="Exactly so many.")
@click.option("--min", "least", type=click.IntRange(0), help="At least so many.")
@click.option("--max", "most", type=click.IntRange(1), help="At most so many, with autoscaling.")
@WAIT
@TIMEOUT
def scale(
    settings: Settings,
    *,
    deployment: str,
    replicas: int | None,
    least: int | None,
    most: int | None,
    wait: bool,
    timeout: float,
) -> None:
    """Change how many replicas DEPLOYMENT of APP has.

    It is a new revision that replaces nothing. The application is of the namespace in --namespace.
    """
    from serving.sdk import AsyncMeshClient

    app, slash, name = deployment.partition("/")
    if not (app and slash and name) or "/" in name:
        raise InvalidArgument(f"`{deployment}` is not APP/DEPLOYMENT")
    if (replicas is None) == (least is None and most is None):
        raise InvalidArgument("say either --replicas, or --min and --max")
    key = settings.app(app)

    async def work(waiting: Waiting) -> DeployResult:
        async with AsyncMeshClient(settings.connection()) as client:
            return await client.scale(
                key,
                name,
                least=least if replicas is None else replicas,
                most=most if replicas is None else replicas,
                wait=wait,
                timeout_s=timeout,
                author=author(),
                on_progress=waiting,
            )

    with Waiting(f"scaling {name} of {key}", quiet=settings.as_json) as waiting:
        result = asyncio.run(work(waiting))
    show(settings, result, dry_run=False)
