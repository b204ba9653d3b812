"""The command's tree. Commands are imported when they are called, so that `mesh --help` is quick."""

from __future__ import annotations

from importlib import import_module
from typing import Final

import click

from serving.cli.exits import EPILOG
from serving.version import VERSION

# name → (module, attribute, what it does)
COMMANDS: Final = {
    "up": ("serving.cli.updown", "up", "Start a mesh on this machine, or beside existing etcd and Ray clusters."),
    "down": ("serving.cli.updown", "down", "End the mesh of a folder."),
    "deploy": ("serving.cli.deploying", "deploy", "Store an application's spec, and wait until it is ready."),
    "status": ("serving.cli.showing", "status", "Show applications, or one with its replicas and reasons."),
    "endpoints": ("serving.cli.showing", "endpoints", "Show who answers requests for an application."),
    "clusters": ("serving.cli.showing", "clusters", "Show the Ray clusters, what is free and what runs there."),
    "infer": ("serving.cli.infer", "infer", "Send one request to a model."),
    "logs": ("serving.cli.logs", "logs", "Show the logs of an application, a deployment or a replica."),
    "delete": ("serving.cli.deploying", "delete", "Drain and remove an application."),
    "revisions": ("serving.cli.deploying", "revisions", "Show the stored versions of an application's spec."),
    "rollback": ("serving.cli.deploying", "rollback", "Store the spec of an older revision as a new one."),
    "scale": ("serving.cli.scaling", "scale", "Change how many replicas a deployment has."),
    "split": ("serving.cli.splitting", "split", "Show or change how requests are shared among deployments."),
    "rollout": ("serving.cli.rollout", "rollout", "Follow, pause, resume, promote or undo the rollout of a revision."),
    "keys": ("serving.cli.keys", "keys", "Create, show, change and delete API keys of the gateways."),
    "queue": ("serving.cli.queue", "queue", "Look at the requests that wait at an application's brokers."),
    "batch": ("serving.cli.batch", "batch", "Have files of requests answered by and by, and fetch the answers."),
    "routes": ("serving.cli.routes", "routes", "Give names at the gateways to models: shares and fallbacks."),
    "artifacts": ("serving.cli.artifacts", "artifacts", "Remove archives of models that nothing names any more."),
    "model": ("serving.cli.model", "model", "Check model repositories before they are deployed."),
    "sdk-path": ("serving.cli.sdk_path", "sdk_path", "Show where the headers for C++ deployments are."),
    "doctor": ("serving.cli.doctor", "doctor", "Check this machine and say what to do."),
    "completion": ("serving.cli.completion", "completion", "Print the script that completes this command."),
    "version": ("serving.cli.version", "version", "Show versions."),
}


class LazyGroup(click.Group):
    """A group whose commands live in modules of their own."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        command = getattr(import_module(entry[0]), entry[1])
        return command if isinstance(command, click.Command) else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click, but an unknown command is answered with the nearest one."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from serving.spelling import closest_match

            closest = closest_match(args[0], COMMANDS)
            hint = f" Did you mean `{closest}`?" if closest else ""
            ctx.fail(f"There is no command `{args[0]}`.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry[2]) for name, entry in COMMANDS.items()])


@click.group(cls=LazyGroup, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, message="mesh %(version)s", help="Show the version of the mesh.")
def mesh() -> None:
    """An online serving mesh on Ray: deploy models, follow them, send requests."""
