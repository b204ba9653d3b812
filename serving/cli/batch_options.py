"""What the commands of `mesh batch` share: which gateway is meant, and the key for it."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from serving.cli.options import MESH, Settings, command
from serving.errors import InvalidArgument, Unavailable

if TYPE_CHECKING:
    from serving.cli.gateway_calls import Address, Gateway

T = TypeVar("T")
_KEY: Final = "MESH_API_KEY"  # of the environment: a key on a command line is seen by all users of the machine


@dataclass(frozen=True, slots=True)
class Asked:
    """What the shared options say."""

    settings: Settings
    gateway: str
    api_key_file: Path | None

    @property
    def as_json(self) -> bool:
        return self.settings.as_json

    def address(self) -> Address:
        """`--gateway`, `$MESH_GATEWAY`, or the local mesh's. Raises `Unavailable` where none is known."""
        from serving.cli.gateway_calls import Address

        text = self.gateway or self.settings.connection().gateway
        if not text:
            raise Unavailable("the mesh does not say where its gateway is: name it with --gateway or $MESH_GATEWAY")
        return Address.of(text, self._key())

    def _key(self) -> str:
        if self.api_key_file is None:
            return os.environ.get(_KEY, "").strip()
        try:
            return self.api_key_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidArgument(f"--api-key-file: {self.api_key_file} cannot be read: {error}") from error

    def run(self, work: Callable[[Gateway], Awaitable[T]]) -> T:
        """What `work` gives, at the gateway."""
        from serving.cli.gateway_calls import Gateway

        address = self.address()

        async def asked() -> T:
            async with Gateway(address) as gateway:
                return await work(gateway)

        return asyncio.run(asked())


def gateway_command(function: Callable[..., Any]) -> click.Command:
    """A command that asks a gateway; the function gets `Asked` first and may raise any `MeshError`."""

    @functools.wraps(function)
    def run(settings: Settings, *, gateway: str, api_key_file: Path | None, **values: Any) -> Any:
        return function(Asked(settings, gateway, api_key_file), **values)

    made: Callable[..., Any] = run
    for option in (_API_KEY_FILE, _GATEWAY):
        made = option(made)
    return command(*MESH)(made)


_GATEWAY: Final = click.option(
    "--gateway",
    default="",
    envvar="MESH_GATEWAY",
    metavar="URL",
    help="The gateway, such as https://gateway:8000.  [env: MESH_GATEWAY; default: the local mesh's]",
)
_API_KEY_FILE: Final = click.option(
    "--api-key-file",
    envvar="MESH_API_KEY_FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File with the API key.  [env: MESH_API_KEY_FILE; or the key itself in MESH_API_KEY]",
)
