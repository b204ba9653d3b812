"""The `mesh` command. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command and ends the process with its exit code; see `mesh --help`."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        import click

        from serving.cli.exits import fail_usage
        from serving.cli.group import mesh

        try:
            sys.exit(mesh.main(words, "mesh", standalone_mode=False) or 0)
        except click.ClickException as error:
            fail_usage(error, words)
        except click.Abort:
            raise KeyboardInterrupt from None
    except KeyboardInterrupt:  # while modules were imported: a command that runs has its own answer
        sys.stderr.write("interrupted\n")
        sys.exit(130)
