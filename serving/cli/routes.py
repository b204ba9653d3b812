"""`mesh routes`: which models answer for a name at the gateways."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from serving.cli.deploying import author
from serving.cli.exits import EPILOG
from serving.cli.options import MESH, Settings, command
from serving.cli.output import ago, print_json, table
from serving.cli.waiting import Waiting
from serving.errors import InvalidArgument, SpecError

if TYPE_CHECKING:
    from serving.sdk import Route, RouteStatus
    from serving.sdk.routes import RoutesClient

_DEFAULT_WEIGHT = 100
T = TypeVar("T")


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
def routes() -> None:
    """Give names at the gateways to models: aliases, shares of requests, fallbacks."""


@command(*MESH)
@click.argument("name", required=False)
@click.option("--to", "targets", multiple=True, metavar="MODEL[=WEIGHT]", help="A model by its full name; repeatable.")
@click.option("--fallback", "fallbacks", multiple=True, metavar="MODEL", help="Asked when no target can answer.")
@click.option("-f", "--file", type=click.Path(path_type=Path, dir_okay=False), help="YAML with any number of routes.")
@click.option("--if-version", type=click.IntRange(1), help="Only if this is the route's current version.")
def set_(
    settings: Settings,
    *,
    name: str | None,
    targets: tuple[str, ...],
    fallbacks: tuple[str, ...],
    file: Path | None,
    if_version: int | None,
) -> None:
    """Store the route NAME, or replace it; or those of a file.

    MODEL is a full name, namespace/application/model. Models that are not there yet are allowed, with a warning.
    """
    wanted = _wanted(name, targets, fallbacks, file, if_version)

    async def work(client: RoutesClient) -> list[tuple[RouteStatus, bool]]:
        return [await client.set(route, if_version=if_version or 0, author=author()) for route in wanted]

    stored = _ask(settings, "storing routes", work)
    if settings.as_json:
        print_json({"routes": [shape(status) | {"changed": changed} for status, changed in stored]})
        return
    for status, changed in stored:
        click.echo(f"route {status.route.name} is {'stored' if changed else 'unchanged'} (version {status.version})")
        for warning in status.warnings:
            click.echo(f"  warning: {warning}")


@command(*MESH)
def list_(settings: Settings) -> None:
    """Show all routes."""
    found = _ask(settings, "reading the routes", lambda client: client.list())
    if settings.as_json:
        print_json({"routes": [shape(status) for status in found]})
    elif found:
        rows = [
            (
                one.route.name,
                ", ".join(f"{model}={weight}" for model, weight in one.route.targets.items()),
                ", ".join(one.route.fallbacks) or "-",
                one.version,
                "; ".join(one.warnings),
            )
            for one in found
        ]
        click.echo(table(("NAME", "TARGETS", "FALLBACKS", "VERSION", "WARNINGS"), rows))
    else:
        click.echo("no routes; `mesh routes set NAME --to namespace/application/model` stores one")


@command(*MESH)
@click.argument("name")
def show(settings: Settings, *, name: str) -> None:
    """Show the route NAME: the share of each model, and whether it answers."""
    status = _ask(settings, f"reading the route {name}", lambda client: client.get(name))
    if settings.as_json:
        print_json(shape(status))
        return
    by = f" by {status.author}" if status.author else ""
    click.echo(f"{name}  version {status.version}, changed {ago(status.changed.timestamp(), time.time())}{by}")
    rows = [(one["model"], one["use"], one["ready"], one["warning"]) for one in shape(status)["models"]]
    click.echo(table(("MODEL", "USE", "READY", "WARNING"), rows))


@command(*MESH)
@click.argument("name")
def delete(settings: Settings, *, name: str) -> None:
    """Remove the route NAME: gateways do not know the name any more."""
    _ask(settings, f"deleting the route {name}", lambda client: client.delete(name))
    if settings.as_json:
        print_json({"name": name, "deleted": True})
    else:
        click.echo(f"route {name} is deleted")


def shape(status: RouteStatus) -> dict[str, Any]:
    """As JSON: targets with their percentage, fallbacks, and what each model is now."""
    weights = status.route.targets
    total = sum(weights.values())
    models = []
    for index, one in enumerate(status.models):
        is_target = index < len(weights)
        use = f"{100 * weights[one.model] / total:.3g} %" if is_target else f"fallback {index - len(weights) + 1}"
        models.append({"model": one.model, "use": use, "ready": one.ready, "warning": one.warning})
    return {
        "name": status.route.name,
        "version": status.version,
        "author": status.author,
        "changed_at": status.changed.isoformat(),
        "targets": dict(weights),
        "fallbacks": list(status.route.fallbacks),
        "models": models,
    }


def _ask(settings: Settings, doing: str, work: Callable[[RoutesClient], Awaitable[T]]) -> T:
    from serving.sdk import AsyncMeshClient

    async def ask() -> T:
        async with AsyncMeshClient(settings.connection()) as client:
            return await work(client.routes)

    with Waiting(doing, quiet=settings.as_json):
        return asyncio.run(ask())


def _wanted(
    name: str | None, targets: tuple[str, ...], fallbacks: tuple[str, ...], file: Path | None, if_version: int | None
) -> tuple[Route, ...]:
    from serving.sdk import Route, load_routes

    if file is not None:
        if name or targets or fallbacks or if_version:
            raise InvalidArgument("--file says everything: no NAME, --to, --fallback or --if-version beside it")
        return load_routes(file)
    if not name or not targets:
        raise InvalidArgument("say NAME and --to MODEL, or --file routes.yaml")
    weights: dict[str, int] = {}
    for text in targets:
        model, weight = _target(text)
        if model in weights:
            raise SpecError(f"--to names {model} twice", field="targets")
        weights[model] = weight
    return (Route(name, weights, fallbacks),)


def _target(text: str) -> tuple[str, int]:
    """`namespace/application/model=90`; without a weight it is 100."""
    model, equals, weight = text.rpartition("=")
    if not equals:
        return text, _DEFAULT_WEIGHT
    if not (model and weight.isascii() and weight.isdigit()):
        raise InvalidArgument(f"`{text}` is not MODEL or MODEL=WEIGHT, such as default/chat/tiny-chat=90")
    return model, int(weight)


for word, made in (("set", set_), ("list", list_), ("show", show), ("delete", delete)):
    routes.add_command(made, word)
