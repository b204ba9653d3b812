"""`mesh artifacts prune`: archives of models that no revision names any more."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import click

from serving.cli.exits import EPILOG
from serving.cli.options import MESH, Settings, command
from serving.cli.output import print_json
from serving.cli.waiting import Waiting
from serving.errors import FailedPrecondition

if TYPE_CHECKING:
    from serving.config import EtcdConfig

MIN_HOURS = 24.0


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
def artifacts() -> None:
    """Look after the archives of deployed model folders."""


@command(*MESH)
@click.option(
    "--older-than",
    "hours",
    type=click.FloatRange(MIN_HOURS),
    default=MIN_HOURS,
    show_default=True,
    help="Hours. Younger archives may belong to a deployment that is under way.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@click.option("--all", "everything", is_flag=True, help="Also when the mesh holds no application at all.")
def prune(settings: Settings, *, hours: float, dry_run: bool, everything: bool) -> None:
    """Remove the archives that no stored revision, placement or deleted application names.

    Only for an `artifacts` url that belongs to this mesh alone: what another mesh deployed there is not known here.
    """
    from serving.deployment import artifact_sweep as sweep

    connection = settings.connection()
    if not connection.artifacts:
        raise FailedPrecondition("the connection names no place for artifacts")
    with Waiting(f"looking at {connection.artifacts}", quiet=settings.as_json) as waiting:
        old = sweep.old_archives(connection.artifacts, time.time(), hours * 3600)
        values = asyncio.run(_values(connection.etcd)) if old else {}
        found = sweep.unnamed(old, values, empty_is_right=everything) if old else []
        if not dry_run:
            sweep.remove(found, waiting)
    size = sum(one.size_bytes for one in found)
    if settings.as_json:
        urls = [one.url for one in found]
        print_json({"artifacts": connection.artifacts, "removed": not dry_run, "bytes": size, "archives": urls})
        return
    for one in found:
        click.echo(one.url)
    click.echo(f"{len(found)} archives, {size / (1 << 20):.1f} MiB, {'would be' if dry_run else 'were'} removed")


async def _values(etcd: EtcdConfig) -> dict[str, bytes]:
    from serving.store import EtcdClient, keys

    client = EtcdClient(etcd)
    try:
        return {entry.key: entry.value for entry in (await client.get_prefix(keys.ROOT)).kvs}
    finally:
        await client.close()


artifacts.add_command(prune, "prune")
