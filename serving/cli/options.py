"""The options that commands share, and what they say together."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from serving.cli.exits import EPILOG, reported
from serving.errors import FailedPrecondition, InvalidArgument, Unavailable
from serving.store.keys import AppKey
from serving.types import DEFAULT_NAMESPACE, NAME_RULE, is_name

if TYPE_CHECKING:
    from serving.sdk import Connection

Function = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Settings:
    """What the shared options say. `namespace` is "" where none was given."""

    namespace: str
    mesh_dir: Path | None
    config: Path | None
    as_json: bool
    debug: bool

    def connection(self) -> Connection:
        """The mesh that is meant: `--config`, `--dir`, `$MESH_CONFIG`, `$MESH_DIR`, `~/.mesh`, in this order.

        Raises `Unavailable` when there is no mesh, `SpecError` for a wrong file.
        """
        from serving.sdk import Connection

        try:
            if self.config is not None:
                return Connection.from_file(self.config)
            return Connection.local(self.mesh_dir) if self.mesh_dir is not None else Connection.from_env()
        except FailedPrecondition as error:
            raise Unavailable(error.message) from error

    def folder(self) -> Path:
        """The local mesh's folder."""
        from serving.config import default_mesh_dir

        return (self.mesh_dir or default_mesh_dir()).expanduser().resolve()

    def app(self, text: str) -> AppKey:
        """`digits` or `team/digits`. Raises `InvalidArgument`."""
        namespace, _, name = text.rpartition("/")
        if namespace and self.namespace and namespace != self.namespace:
            raise InvalidArgument(f"{text} names namespace {namespace}, --namespace says {self.namespace}")
        key = AppKey(namespace or self.namespace or DEFAULT_NAMESPACE, name)
        for part in (key.namespace, key.name):
            if not is_name(part):
                raise InvalidArgument(f"`{part}` is not a valid name: {NAME_RULE}")
        return key


def command(*takes: str) -> Callable[[Function], click.Command]:
    """A command with the shared options; the function gets `Settings` first and may raise any `MeshError`.

    `takes` names those of `config`, `dir` and `namespace` that mean something there. `MESH` and `APPLICATIONS` are
    the usual ones.
    """

    def decorate(function: Function) -> click.Command:
        @functools.wraps(function)
        def run(**values: Any) -> Any:
            settings = Settings(
                namespace=values.pop("namespace", ""),
                mesh_dir=values.pop("mesh_dir", None),
                config=values.pop("config", None),
                as_json=values.pop("as_json"),
                debug=values.pop("debug"),
            )
            with reported(as_json=settings.as_json, debug=settings.debug):
                return function(settings, **values)

        decorated: Function = run
        for option in ("debug", "json", *(name for name in APPLICATIONS if name in takes)):
            decorated = _OPTIONS[option](decorated)
        return click.command(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})(decorated)

    return decorate


MESH: Final = ("config", "dir")  # for commands that ask a mesh
APPLICATIONS: Final = (*MESH, "namespace")  # and are about its applications
_OPTIONS: Final[dict[str, Callable[[Function], Function]]] = {
    "debug": click.option("--debug", is_flag=True, help="Show where an error came from."),
    "json": click.option("--json", "as_json", is_flag=True, help="Answer as JSON, for machines."),
    "config": click.option(
        "--config",
        type=click.Path(path_type=Path, dir_okay=False),
        help="The mesh.yaml of the mesh that is meant.  [env: MESH_CONFIG]",
    ),
    "dir": click.option(
        "--dir",
        "mesh_dir",
        type=click.Path(path_type=Path, file_okay=False),
        help="The folder of the local mesh that is meant.  [env: MESH_DIR; default: ~/.mesh]",
    ),
    "namespace": click.option(
        "-n", "--namespace", default="", help="Namespace of the application.  [default: default]"
    ),
}
