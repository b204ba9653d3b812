"""`mesh completion`: the scripts of click, for three shells."""

from __future__ import annotations

import click

from serving.cli.exits import EPILOG


@click.command(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script for SHELL.

    \b
    bash:  eval "$(mesh completion bash)"                       in ~/.bashrc
    zsh:   eval "$(mesh completion zsh)"                        in ~/.zshrc
    fish:  mesh completion fish > ~/.config/fish/completions/mesh.fish
    """
    from click.shell_completion import get_completion_class

    from serving.cli.group import mesh

    made = get_completion_class(shell)
    if made is None:
        raise click.UsageError(f"click has no completion for {shell}")
    click.echo(made(mesh, {}, "mesh", "_MESH_COMPLETE").source())
