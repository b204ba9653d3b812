"""`mesh queue journals`: what brokers have left on this machine, also those of applications that are gone."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from serving.cli.options import Settings, command
from serving.cli.output import print_json, table

_BELOW: Final = ("cache", "broker")  # of a local mesh's folder


@command("dir")
@click.option("--path", type=click.Path(path_type=Path), help="A broker's `path`; left out: the local mesh's cache.")
@click.option("--remove", metavar="JOURNAL", default="", help="Remove this one, with all that is in it.")
def journals(settings: Settings, *, path: Path | None, remove: str) -> None:
    """Show the journals of brokers on this machine, also of applications that were deleted or have moved."""
    from serving.broker.leftovers import lying_journals, remove_lying

    folder = path if path is not None else settings.folder().joinpath(*_BELOW)
    if remove:
        gone = remove_lying(folder, remove)
        if settings.as_json:
            print_json({"folder": str(folder), "removed": _shape(gone)})
        else:
            click.echo(f"{gone.journal} is removed: {gone.live} requests waited there, {gone.dead} were dead")
        return
    found = lying_journals(folder) if path is not None or folder.is_dir() else []
    if settings.as_json:
        print_json({"folder": str(folder), "journals": [_shape(one) for one in found]})
        return
    if not found:
        click.echo(f"no journals in {folder}")
        return
    rows = [
        (
            f"{one.namespace}/{one.application}",
            one.deployment,
            one.journal,
            "yes" if one.served else "no",
            *((one.live, one.dead, one.ended, one.bytes) if not one.problem else ("?", "?", "?", "?")),
            one.problem or "-",
        )
        for one in found
    ]
    headers = ("APPLICATION", "BROKER", "JOURNAL", "SERVED", "LIVE", "DEAD", "ENDED", "BYTES", "PROBLEM")
    click.echo(table(headers, rows))


def _shape(one: object) -> dict[str, object]:
    return {name: getattr(one, name) for name in type(one).__slots__}  # type: ignore[attr-defined]
