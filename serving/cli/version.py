"""`mesh version`."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed

import click

from serving.cli.options import Settings, command
from serving.cli.output import print_json, table
from serving.version import VERSION

PACKAGES = {"ray": "ray", "triton": "nvidia-pytriton", "openvino": "openvino", "grpc": "grpcio"}


def versions() -> dict[str, str]:
    """What is installed, without importing it; "-" for what is not."""
    found = {"mesh": VERSION}
    for name, package in PACKAGES.items():
        try:
            found[name] = installed(package)
        except PackageNotFoundError:
            found[name] = "-"
    return {**found, "python": platform.python_version()}


@command()
def version(settings: Settings) -> None:
    """Show the versions of the mesh and of what it is made of."""
    found = versions()
    if settings.as_json:
        print_json(found)
    else:
        click.echo(table(("PART", "VERSION"), list(found.items())))
