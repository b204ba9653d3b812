"""`mesh status`, `endpoints` and `clusters`: what is there."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import click

from serving.cli import names, shapes
from serving.cli.options import APPLICATIONS, MESH, Settings, command
from serving.cli.output import ago, gateway_lines, gateway_shape, print_json, table
from serving.cli.tables import APP_HEADERS, endpoint_table, one_application, row
from serving.cli.waiting import Waiting

if TYPE_CHECKING:
    from serving._proto import keeper_pb2 as api
    from serving._proto import records_pb2 as pb
    from serving.sdk import AppStatus
    from serving.store.keys import AppKey


@command(*APPLICATIONS)
@click.argument("app", required=False, shell_complete=names.applications)
@click.option("-w", "--watch", is_flag=True, help="Go on showing changes until Ctrl-C.")
def status(settings: Settings, *, app: str | None, watch: bool) -> None:
    """Show all applications, or APP with its deployments, replicas and the reasons for their state."""
    from serving.cli.watching import watch_status
    from serving.sdk import AsyncMeshClient

    key = settings.app(app) if app else None
    if watch:
        asyncio.run(watch_status(settings, key))
        return
    mesh = settings.connection()

    async def work() -> tuple[AppStatus, ...]:
        async with AsyncMeshClient(mesh) as client:
            return (await client.status(key),) if key else await client.list(settings.namespace)

    with Waiting(f"asking a keeper for {key or 'the applications'}", quiet=settings.as_json):
        found = asyncio.run(work())
    if key:
        print_json(shapes.application(found[0])) if settings.as_json else click.echo(one_application(found[0]))
    elif settings.as_json:
        applications = [shapes.application(item) for item in found]
        print_json({"applications": applications, **gateway_shape(mesh.gateway, mesh.gateway_grpc)})
    else:
        where = f" in namespace {settings.namespace}" if settings.namespace else ""
        nothing = f"no applications{where}; `mesh deploy app.yaml` stores one"
        click.echo(table(APP_HEADERS, [row(item) for item in found]) if found else nothing)
        for line in gateway_lines(mesh.gateway, mesh.gateway_grpc):
            click.echo(line)


@command(*APPLICATIONS)
@click.argument("app", required=False, shell_complete=names.applications)
@click.option("--role", default="", help="Only endpoints of this role: direct, proxy, broker, gateway.")
@click.option("-w", "--watch", is_flag=True, help="Go on showing changes until Ctrl-C.")
def endpoints(settings: Settings, *, app: str | None, role: str, watch: bool) -> None:
    """Show who is registered in discovery, for APP or for all applications."""
    from serving.cli.watching import watch_endpoints

    key = settings.app(app) if app else None
    if watch:
        asyncio.run(watch_endpoints(settings, key, role))
        return
    with Waiting(f"reading the endpoints of {key or 'all applications'}", quiet=settings.as_json):
        found = asyncio.run(_endpoints(settings, key, role))
    if settings.as_json:
        print_json({"endpoints": [shapes.endpoint(item) for item in found]})
    elif found:
        click.echo(endpoint_table(found))
    elif key:
        click.echo(f"{key} has no endpoints; `mesh status {key.name}` says why")
    else:
        click.echo("no endpoints; `mesh status` shows the applications")


@command(*MESH)
def clusters(settings: Settings) -> None:
    """Show the Ray clusters: alive or not, free and all resources, applications, labels."""
    from serving.sdk import AsyncMeshClient

    async def work() -> tuple[api.ClusterView, ...]:
        async with AsyncMeshClient(settings.connection()) as client:
            return await client.clusters()

    with Waiting("asking a keeper for the clusters", quiet=settings.as_json):
        found = asyncio.run(work())
    if settings.as_json:
        print_json({"clusters": [shapes.cluster(item) for item in found]})
        return
    if not found:
        click.echo("no clusters; an agent registers one when it starts (`mesh up` starts both)")
        return
    now_s = time.time()
    rows = [_cluster_row(item, now_s) for item in found]
    headers = ("NAME", "ALIVE", "SEEN", "NODES", "CPUS FREE/ALL", "GPUS FREE/ALL", "MEMORY FREE/ALL", "APPS", "LABELS")
    click.echo(table(headers, rows))


async def _endpoints(settings: Settings, key: AppKey | None, role: str) -> tuple[pb.Endpoint, ...]:
    from serving.errors import NotFound
    from serving.sdk import AsyncMeshClient

    async with AsyncMeshClient(settings.connection()) as client:
        if key is None:
            apps = [item.app for item in await client.list(settings.namespace)]
            return tuple([item for app in apps for item in await client.endpoints(app, role=role)])
        found = await client.endpoints(key, role=role)
        if not found:
            try:
                await client.status(key)
            except NotFound as error:
                raise NotFound(f"{error.message} (`mesh status` lists them)") from error
        return found


def _cluster_row(view: api.ClusterView, now_s: float) -> tuple[object, ...]:
    record = view.record
    return (
        record.name,
        "yes" if view.alive else "no",
        "now" if view.alive else ago(view.last_seen.seconds, now_s),
        len(record.nodes),
        f"{record.available.cpus:g}/{record.total.cpus:g}",
        f"{record.available.gpus:g}/{record.total.gpus:g}",
        f"{_gib(record.available.memory_bytes)}/{_gib(record.total.memory_bytes)}",
        len(view.applications),
        ", ".join(f"{name}={value}" for name, value in sorted(record.labels.items())),
    )


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB"
