"""`mesh keys`: who may ask a gateway, and how much."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from serving.cli.deploying import author
from serving.cli.exits import EPILOG
from serving.cli.options import MESH, Settings, command
from serving.cli.output import print_json, table
from serving.cli.waiting import Waiting
from serving.errors import InvalidArgument

if TYPE_CHECKING:
    from serving.sdk.api_keys import ApiKey, AsyncApiKeys, CreatedKey, KeyLimits

T = TypeVar("T")
# option → field of KeyLimits, what it says
_LIMITS: Final = {
    "--requests-per-minute": ("requests_per_minute", "Requests a minute."),
    "--tokens-per-minute": ("tokens_per_minute", "Tokens a minute, of prompts and answers."),
    "--concurrent": ("concurrent_requests", "Requests at a time."),
    "--tokens-per-day": ("tokens_per_day", "Tokens a day (UTC)."),
    "--tokens-per-month": ("tokens_per_month", "Tokens a month (UTC)."),
    "--tokens-total": ("tokens_total", "Tokens in all."),
}
_UNITS: Final = {"m": 60, "h": 3600, "d": 86_400}


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
def keys() -> None:
    """Create, show, disable and delete API keys of the gateways, and change their limits."""


def _with_limits(least: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The options of limits, by the names of their fields."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for option, (name, text) in reversed(_LIMITS.items()):
            function = click.option(option, name, type=click.IntRange(least), help=text)(function)
        return function

    return decorate


@command(*MESH)
@click.argument("tenant")
@click.option("--name", default="", help="What the key is for.")
@click.option(
    "--model", "models", multiple=True, help="A model, or a pattern of them; may be repeated.  [default: all]"
)
@click.option("--namespace", "namespaces", multiple=True, help="Models of it only; may be repeated.  [default: all]")
@click.option("--expires", default="", help="After 30m, 12h or 90d, or at an ISO 8601 time.  [default: never]")
@_with_limits(1)
def create(
    settings: Settings,
    *,
    tenant: str,
    name: str,
    models: tuple[str, ...],
    namespaces: tuple[str, ...],
    expires: str,
    **limits: int | None,
) -> None:
    """Create a key of TENANT, and show it once: it is stored nowhere and cannot be shown again."""
    from serving.sdk.api_keys import KeyLimits

    ends = _end(expires) if expires else None

    async def work(client: AsyncApiKeys) -> CreatedKey:
        return await client.create(
            tenant,
            name=name,
            models=models,
            namespaces=namespaces,
            limits=KeyLimits(**limits),
            expires_at=ends,
            author=author(),
        )

    made = _asked(settings, work, "creating a key")
    if settings.as_json:
        print_json(shape(made.key) | {"api_key": made.text})
        return
    click.echo(made.text)
    click.echo(f"key {made.key.id} of {tenant}; it cannot be shown again", err=True)


@command(*MESH)
@click.option("--tenant", default="", help="Those of one tenant.  [default: all]")
def list_keys(settings: Settings, *, tenant: str) -> None:
    """Show the keys, without their secrets."""

    async def work(client: AsyncApiKeys) -> tuple[ApiKey, ...]:
        return await client.list(tenant)

    found = _asked(settings, work, "asking a keeper for the keys")
    if settings.as_json:
        print_json({"keys": [shape(one) for one in found]})
    elif found:
        rows = [(one.id, one.tenant, one.name or "-", _state(one), _scope(one), _limits(one.limits)) for one in found]
        click.echo(table(("ID", "TENANT", "NAME", "STATE", "MODELS", "LIMITS"), rows))
    else:
        click.echo("no keys; `mesh keys create TENANT` makes one")


@command(*MESH)
@click.argument("key_id", metavar="ID")
def show(settings: Settings, *, key_id: str) -> None:
    """Show a key, and what is used of its budgets."""

    async def work(client: AsyncApiKeys) -> ApiKey:
        return await client.get(key_id)

    _show(settings, _asked(settings, work, f"asking a keeper for key {key_id}"))


@command(*MESH)
@click.argument("key_id", metavar="ID")
def disable(settings: Settings, *, key_id: str) -> None:
    """Have gateways refuse a key, until it is enabled. Requests that run end normally."""
    _turn(settings, key_id, disabled=True)


@command(*MESH)
@click.argument("key_id", metavar="ID")
def enable(settings: Settings, *, key_id: str) -> None:
    """Let a disabled key ask again."""
    _turn(settings, key_id, disabled=False)


def _turn(settings: Settings, key_id: str, *, disabled: bool) -> None:
    async def work(client: AsyncApiKeys) -> ApiKey:
        return await client.set_disabled(key_id, disabled)

    _show(settings, _asked(settings, work, f"changing key {key_id}"))


@command(*MESH)
@click.argument("key_id", metavar="ID")
@_with_limits(0)
def set_limits(settings: Settings, *, key_id: str, **limits: int | None) -> None:
    """Change limits of a key; 0 takes a limit away, those that are not given stay."""
    from serving.sdk.api_keys import KeyLimits

    given = {name: value for name, value in limits.items() if value is not None}
    if not given:
        raise InvalidArgument(f"say at least one of {', '.join(_LIMITS)}")

    async def work(client: AsyncApiKeys) -> ApiKey:
        found = await client.get(key_id)
        before = {name: getattr(found.limits, name) for name in limits}
        return await client.set_limits(key_id, KeyLimits(**{**before, **given}), if_version=found.version)

    _show(settings, _asked(settings, work, f"changing key {key_id}"))


@command(*MESH)
@click.argument("key_id", metavar="ID")
def delete(settings: Settings, *, key_id: str) -> None:
    """Delete a key for ever."""

    async def work(client: AsyncApiKeys) -> None:
        await client.delete(key_id)

    _asked(settings, work, f"deleting key {key_id}")
    if settings.as_json:
        print_json({"id": key_id, "deleted": True})
    else:
        click.echo(f"key {key_id} is deleted")


def _asked(settings: Settings, work: Callable[[AsyncApiKeys], Awaitable[T]], what: str) -> T:
    from serving.sdk import AsyncMeshClient

    async def ask() -> T:
        async with AsyncMeshClient(settings.connection()) as client:
            return await work(client.keys)

    with Waiting(what, quiet=settings.as_json):
        return asyncio.run(ask())


def shape(key: ApiKey) -> dict[str, Any]:
    """A key as JSON: a contract, like the shapes of `serving.cli.shapes`."""
    return {
        "id": key.id,
        "tenant": key.tenant,
        "name": key.name,
        "models": list(key.models),
        "namespaces": list(key.namespaces),
        "limits": {name: getattr(key.limits, name) for name, _ in _LIMITS.values()},
        "used": key.used,
        "disabled": key.disabled,
        "version": key.version,
        "author": key.author,
        "created_at": key.created_at.isoformat(),
        "expires_at": key.expires_at.isoformat() if key.expires_at else None,
    }


def _show(settings: Settings, key: ApiKey) -> None:
    if settings.as_json:
        print_json(shape(key))
        return
    click.echo(f"{key.id}  {key.tenant}  {key.name or '-'}  {_state(key)}")
    click.echo(f"  models   {_scope(key)}")
    click.echo(f"  limits   {_limits(key.limits)}")
    for name, used in key.used.items():
        click.echo(f"  {name}: {used} of {getattr(key.limits, name)} used")


def _state(key: ApiKey) -> str:
    if key.disabled:
        return "disabled"
    if key.expires_at is None:
        return "enabled"
    when = key.expires_at.isoformat(timespec="seconds")
    return f"expired {when}" if key.expires_at <= datetime.now(timezone.utc) else f"until {when}"


def _scope(key: ApiKey) -> str:
    models = ", ".join(key.models) or "all"
    return f"{models} in {', '.join(key.namespaces)}" if key.namespaces else models


def _limits(limits: KeyLimits) -> str:
    given = {name: getattr(limits, name) for name, _ in _LIMITS.values()}
    return ", ".join(f"{name}={value}" for name, value in given.items() if value) or "none"


def _end(text: str) -> datetime:
    now = datetime.now(timezone.utc)
    if text[:-1].isdigit() and text[-1:] in _UNITS:
        return now + timedelta(seconds=int(text[:-1]) * _UNITS[text[-1]])
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidArgument(f"--expires {text}: neither 30m, 12h or 90d, nor an ISO 8601 time") from error
    return moment if moment.tzinfo is not None else moment.astimezone()


for made in (create, show, disable, enable, set_limits, delete):
    keys.add_command(made)
keys.add_command(list_keys, "list")
