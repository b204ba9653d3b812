"""`mesh doctor`: what this machine has, what is missing, and what to do about it."""

from __future__ import annotations

import sys

import click

from serving.cli.exits import FAILED
from serving.cli.options import MESH, Settings, command
from serving.cli.output import coloured, print_json, table
from serving.cli.waiting import Waiting


@command(*MESH)
def doctor(settings: Settings) -> None:
    """Check the machine, its libraries, ports and versions, and say what to do.

    With --config (or $MESH_CONFIG) also what that mesh.yaml names: etcd endpoints, Ray clusters and their tokens,
    certificates, the address that keepers listen on. Exit code 1 when something is missing that a mesh needs.
    """
    from serving.cli.check import FAILED as BROKEN
    from serving.cli.checks import run_all
    from serving.config import mesh_config_file

    with Waiting("checking this machine", quiet=settings.as_json) as waiting:
        found = run_all(settings.folder(), waiting, settings.config or mesh_config_file())
    broken = [item for item in found if item.state == BROKEN]
    if settings.as_json:
        shapes = [
            {"name": item.name, "state": item.state, "found": item.found, "advice": item.advice} for item in found
        ]
        print_json({"ok": not broken, "checks": shapes})
    else:
        click.echo(table(("", "CHECK", "FOUND"), [(item.state, item.name, item.found) for item in found]))
        for item in found:
            if item.advice:
                click.echo(f"\n{coloured(item.state)} {item.name}: {item.advice}")
        click.echo("\nall is well" if not broken else f"\n{len(broken)} of {len(found)} checks failed")
    if broken:
        sys.exit(FAILED)
