"""`mesh sdk-path`."""

from __future__ import annotations

from pathlib import Path

import click

from serving.cli.options import Settings, command
from serving.cli.output import print_json
from serving.errors import FailedPrecondition

_SDK = Path(__file__).resolve().parents[1] / "_lib" / "sdk"
_PACKAGE = Path("lib", "cmake", "ServingMesh")


@command()
@click.option("--cmake", is_flag=True, help="The folder for CMake's ServingMesh_DIR.")
def sdk_path(settings: Settings, cmake: bool) -> None:
    """Show where the headers for C++ deployments are, for CMAKE_PREFIX_PATH."""
    if not (_SDK / _PACKAGE / "ServingMeshConfig.cmake").is_file():
        raise FailedPrecondition(
            f"the headers for C++ deployments are not in {_SDK}; run `make setup`, or install again"
        )
    found = _SDK / _PACKAGE if cmake else _SDK
    if settings.as_json:
        print_json({"prefix": str(_SDK), "cmake": str(_SDK / _PACKAGE), "include": str(_SDK / "include")})
    else:
        click.echo(str(found))
