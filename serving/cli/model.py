"""`mesh model check`: a model repository, loaded as a replica would load it, before anything is deployed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from serving.cli.exits import EPILOG, FAILED
from serving.cli.options import Settings, command
from serving.cli.output import print_json, table
from serving.cli.waiting import Waiting


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
def model() -> None:
    """Check model repositories before they are deployed."""


@command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.option("--model", "models", multiple=True, help="Only this model. May be repeated.")
@click.option("--timeout", type=click.FloatRange(0.1), default=300.0, show_default=True, help="Seconds.")
def check(settings: Settings, *, directory: Path, models: tuple[str, ...], timeout: float) -> None:
    """Load every model of the repository DIRECTORY in an embedded Triton and show its inputs, outputs or error."""
    from serving.cli.model_check import check_repository

    with Waiting(f"loading the models of {directory}", quiet=settings.as_json) as waiting:
        found = check_repository(directory, models, waiting, timeout_s=timeout)
    broken = [item for item in found if item["state"] != "READY"]
    if settings.as_json:
        print_json({"directory": str(directory), "ok": not broken, "models": found})
    else:
        for item in found:
            click.echo(_one(item))
        click.echo(f"{len(found) - len(broken)} of {len(found)} models load")
    if broken or not found:
        sys.exit(FAILED)


def _one(item: dict[str, Any]) -> str:
    if item["state"] != "READY":
        return f"{item['name']}  FAILED\n  {item['reason']}\n"
    rows = [("input", one["name"], one["datatype"], str(one["shape"])) for one in item["inputs"]]
    rows += [("output", one["name"], one["datatype"], str(one["shape"])) for one in item["outputs"]]
    head = f"{item['name']}  version {', '.join(item['versions'])}, {item['platform']}"
    lines = table(("", "NAME", "DATATYPE", "SHAPE"), rows).splitlines()
    return "\n".join([head, *("  " + line for line in lines), ""])


model.add_command(check, "check")
