"""`mesh status`, `endpoints` and `clusters`: what is there."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import click

from serving.cli import names, shapes
from serving.cli.options import APPLICATIONS, MESH, Settings, command
from serving.cli.output import ago, coloured, print_json, table
from serving.cli.waiting import Waiting

if TYPE_CHECKING:
    from serving._proto import keeper_pb2 as api
    from serving._proto import records_pb2 as pb
    from serving.sdk import AppStatus
    from serving.store.keys import AppKey

_COUNTED = ("ReplicasReady", "RevisionServing")  # conditions that are counted from deployments and replicas
APP_HEADERS = ("NAMESPACE", "NAME", "PHASE", "REPLICAS", "CLUSTER", "REVISION", "MESSAGE")
ENDPOINT_HEADERS = ("APPLICATION", "ID", "DEPLOYMENT", "ROLE", "STATE", "ADDRESS", "CLUSTER", "REVISION", "MODELS")


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

    async def work() -> tuple[AppStatus, ...]:
        async with AsyncMeshClient(settings.connection()) as client:
            return (await client.status(key),) if key else await client.list(settings.namespace)

    with Waiting(f"asking a keeper for {key or 'the applications'}", quiet=settings.as_json):
        found = asyncio.run(work())
    if key:
        print_json(shapes.application(found[0])) if settings.as_json else click.echo(one_application(found[0]))
    elif settings.as_json:
        print_json({"applications": [shapes.application(item) for item in found]})
    elif found:
        click.echo(table(APP_HEADERS, [row(item) for item in found]))
    else:
        where = f" in namespace {settings.namespace}" if settings.namespace else ""
        click.echo(f"no applications{where}; `mesh deploy app.yaml` stores one")


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


def row(item: AppStatus) -> tuple[object, ...]:
    """One line of the table of applications."""
    ready = sum(one.ready for one in item.deployments)
    wanted = sum(one.wanted for one in item.deployments)
    revision = str(item.revision)
    if item.serving_revision and item.serving_revision != item.revision:
        revision = f"{item.serving_revision} → {item.revision}"
    replicas = f"{ready}/{wanted}" if wanted else "-"
    return (item.namespace, item.name, item.phase, replicas, item.cluster or "-", revision, item.message)


def one_application(item: AppStatus) -> str:
    """Everything known of one application, each fact once: where it belongs, not in the summary too."""
    from serving.sdk.status import replica_state_name

    where = f"{item.cluster} (generation {item.generation})" if item.cluster else "nowhere"
    serving = f"revision {item.serving_revision}" if item.serving_revision else "nothing yet"
    lines = [
        f"{item.namespace}/{item.name}  {coloured(item.phase)}",
        f"  {message}" if (message := _beside_deployments(item)) else "",
        f"  placed    {where}",
        f"  revision  {item.revision}, serves {serving}",
    ]
    lines += [f"  {reason.cluster or '*'}: {reason.reason}" for reason in item.reasons]
    told = _COUNTED if item.deployments else ()
    lines += [
        f"  not {one.type}: {one.message or one.reason}"
        for one in item.conditions
        if not one.status and one.type not in told
    ]
    for deployment in item.deployments:
        text = deployment.reason or f"{deployment.ready} of {deployment.wanted} replicas are ready"
        lines += ["", f"deployment {deployment.name}: {text}"]
        rows = [
            (
                one.id,
                replica_state_name(one.state),
                one.address or "-",
                one.pid or "-",
                one.restarts,
                one.revision,
                "" if one.reason in deployment.reason else one.reason,
            )
            for one in deployment.replicas
        ]
        if rows:
            lines.append(table(("REPLICA", "STATE", "ADDRESS", "PID", "RESTARTS", "REVISION", "REASON"), rows))
    return "\n".join(line for index, line in enumerate(lines) if line or index > 1)


def _beside_deployments(item: AppStatus) -> str:
    """What the message says that the lines of the deployments do not."""
    ready, wanted = (sum(getattr(one, name) for one in item.deployments) for name in ("ready", "wanted"))
    reasons = "; ".join(f"{one.name}: {one.reason}" for one in item.deployments if one.reason)
    rest = item.message
    for known in (reasons, f"{ready} of {wanted} replicas are ready" if item.deployments else ""):
        rest = rest.replace(known, "") if known else rest
    return rest.strip(" ;:")


def endpoint_table(found: tuple[pb.Endpoint, ...]) -> str:
    """The table of endpoints."""
    rows = [
        (
            f"{item.namespace}/{item.application}",
            item.id,
            item.deployment or "-",
            item.role,
            item.state,
            item.address,
            item.cluster,
            item.revision,
            ", ".join(f"{model.name}:{'/'.join(model.versions) or '-'}" for model in item.models),
        )
        for item in found
    ]
    return table(ENDPOINT_HEADERS, rows)


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
