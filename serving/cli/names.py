"""Names for the shell's completion, asked of a keeper. Where nobody answers soon, nothing is completed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import click
from click.shell_completion import CompletionItem

from serving.errors import MeshError
from serving.timeouts import wait_for

if TYPE_CHECKING:
    from serving.sdk import AppStatus

PATIENCE_S: Final = 1.5  # a shell that waits longer feels broken


def applications(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """`digits`, or `team/digits` once a namespace was begun."""
    return [CompletionItem(name) for name in sorted(_spellings(context)) if name.startswith(incomplete)]


def deployments(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """`digits`, `digits/main` and `digits/main/main-r1-0`, one step at a time."""
    names = set()
    for app in _listed(context):
        names.add(app.name)
        for deployment in app.deployments:
            names.add(f"{app.name}/{deployment.name}")
            names |= {f"{app.name}/{deployment.name}/{replica.id}" for replica in deployment.replicas}
    depth = incomplete.count("/")
    return [CompletionItem(name) for name in sorted(names) if name.startswith(incomplete) and name.count("/") == depth]


def _spellings(context: click.Context) -> set[str]:
    from serving.types import DEFAULT_NAMESPACE

    wanted = str(context.params.get("namespace") or "")
    found = _listed(context)
    short = {app.name for app in found if app.namespace == (wanted or DEFAULT_NAMESPACE)}
    return short if wanted else short | {f"{app.namespace}/{app.name}" for app in found if app.name not in short}


def _listed(context: click.Context) -> tuple[AppStatus, ...]:
    try:
        return asyncio.run(wait_for(_ask(context.params), PATIENCE_S))
    except (MeshError, asyncio.TimeoutError):
        return ()  # a shell has no place for the reason; the command itself says it


async def _ask(params: dict[str, Any]) -> tuple[AppStatus, ...]:
    from serving.cli.options import Settings
    from serving.sdk import AsyncMeshClient

    settings = Settings(
        namespace=str(params.get("namespace") or ""),
        mesh_dir=params.get("mesh_dir"),
        config=params.get("config"),
        as_json=False,
        debug=False,
    )
    async with AsyncMeshClient(settings.connection()) as client:
        return await client.list(settings.namespace, timeout_s=PATIENCE_S)
