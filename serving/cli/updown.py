"""`mesh up` and `mesh down`: a whole mesh on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from serving.cli.options import Settings, command
from serving.cli.output import gateway_lines, gateway_shape, print_json
from serving.cli.waiting import Waiting
from serving.errors import InvalidArgument

if TYPE_CHECKING:
    from serving.local.state import MeshState


@command("dir")
@click.option("--clusters", type=click.IntRange(1, 16), default=1, show_default=True, help="Local Ray clusters.")
@click.option("--keepers", type=click.IntRange(1, 5), default=1, show_default=True, help="Keepers.")
@click.option(
    "--cpus", type=click.IntRange(1), help="CPUs that each cluster hands out.  [default: those of the machine]"
)
@click.option(
    "--gpus",
    type=click.IntRange(0),
    help="GPUs that each cluster hands out.  [default: those that `nvidia-smi -L` lists]",
)
@click.option(
    "-f",
    "--file",
    "--config",
    "config_file",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="A mesh.yaml that names existing etcd endpoints and Ray clusters; only keepers and agents are started.",
)
@click.option(
    "--gateway-port", type=click.IntRange(1, 65535), help="Port of the HTTP gateway.  [default: any free one]"
)
@click.option(
    "--gateway-grpc-port", type=click.IntRange(1, 65535), help="Port of the gRPC gateway.  [default: any free one]"
)
@click.option("--require-keys", is_flag=True, help="Clients of the gateway and of HTTP proxies need an API key.")
@click.option("--detach", is_flag=True, help="Return when it is ready; `mesh down` ends it.")
@click.option("--start-timeout", type=click.FloatRange(1.0), default=180.0, show_default=True, help="Seconds.")
def up(
    settings: Settings,
    *,
    clusters: int,
    keepers: int,
    cpus: int | None,
    gpus: int | None,
    config_file: Path | None,
    gateway_port: int | None,
    require_keys: bool,
    gateway_grpc_port: int | None,
    detach: bool,
    start_timeout: float,
) -> None:
    """Start a mesh: etcd, Ray clusters, keepers, agents, a gateway, all on loopback; or, with -f, beside what exists.

    Without --detach it runs until Ctrl-C, which ends all of it. Applications stay stored in the folder: the next
    `mesh up` there finds them.
    """
    if config_file is not None:
        _refuse_local_options(config_file)
    from serving.local.mesh import UpOptions, run_foreground
    from serving.local.mesh import up as start

    options = UpOptions(
        mesh_dir=settings.folder(),
        clusters=clusters,
        keepers=keepers,
        cpus_per_cluster=cpus or 0,
        gpus_per_cluster=gpus,
        config_file=config_file.resolve() if config_file else None,
        gateway_port=gateway_port or 0,
        require_keys=require_keys,
        gateway_grpc_port=gateway_grpc_port or 0,
        start_timeout_s=start_timeout,
    )
    if detach:
        with Waiting(f"starting a mesh in {options.mesh_dir}", at_once=True) as waiting:
            state = start(options, waiting)
        _say_ready(settings, state, detach=True)
        return
    waiting = Waiting(f"starting a mesh in {options.mesh_dir}", at_once=True)
    with waiting:
        run_foreground(options, waiting, lambda state: _ready_in_foreground(settings, waiting, state))
    click.echo("the mesh is down", err=True)


@command("dir")
def down(settings: Settings) -> None:
    """End the mesh of a folder: its supervisor and everything it started. Its data stays."""
    from serving.local.mesh import down as stop

    folder = settings.folder()
    with Waiting(f"stopping the mesh in {folder}") as waiting:
        stop(folder, waiting)
    if settings.as_json:
        print_json({"mesh_dir": str(folder), "stopped": True})
    else:
        click.echo(f"the mesh in {folder} is down")


def _refuse_local_options(config_file: Path) -> None:
    """What the file says, or what only own clusters have, must not be given beside it and then be passed over."""
    context = click.get_current_context()
    for name in ("clusters", "keepers", "cpus", "gpus", "gateway_port", "gateway_grpc_port", "require_keys"):
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise InvalidArgument(
                f"--{name.replace('_', '-')} is for a mesh with its own clusters; {config_file} says what it is here"
            )


def _ready_in_foreground(settings: Settings, waiting: Waiting, state: MeshState) -> None:
    waiting.end()
    _say_ready(settings, state, detach=False)


def _say_ready(settings: Settings, state: MeshState, *, detach: bool) -> None:
    if settings.as_json:
        print_json(_shape(state))
        return
    names = ", ".join(cluster.name for cluster in state.clusters)
    click.echo(f"the mesh is up in {state.mesh_dir} (clusters: {names})")
    for line in gateway_lines(state.gateway, state.gateway_grpc):
        click.echo(line)
    click.echo("next: mesh deploy app.yaml, mesh status, " + ("mesh down" if detach else "Ctrl-C to end it"))


def _shape(state: MeshState) -> dict[str, Any]:
    return {
        "mesh_dir": str(state.mesh_dir),
        "etcd": list(state.etcd.get("endpoints", ())),
        "artifacts": state.artifacts,
        "clusters": [{"name": cluster.name, "ray_address": cluster.ray_address} for cluster in state.clusters],
        **gateway_shape(state.gateway, state.gateway_grpc),
        "processes": [
            {"name": item.name, "role": item.role, "pid": item.identity.pid, "log_file": item.log_file}
            for item in state.processes
        ],
    }
