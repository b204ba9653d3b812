"""Applications of Ray Serve that do not come up say why, and leave those before them as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving._proto import records_pb2 as pb
from serving.deployment.artifact_archive import pack
from tests.integration.master.small_mesh import Keeper, SmallMesh
from tests.integration.serve_deployment.apps import application, served
from tests.integration.serve_deployment.asking import applications, entry_point, over_http

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


async def reason(keeper: Keeper, wanted: pb.DeploymentSpec) -> str:
    """Why it does not run."""
    await keeper.place(application(keeper, wanted))
    status = await keeper.wait_status(lambda status: status.phase == pb.FAILED and bool(status.deployments[0].reason))
    return str(status.deployments[0].reason)


@pytest.mark.parametrize(
    ("entry", "args", "told"),
    [
        ("missing:app", None, "importing missing failed: ModuleNotFoundError: No module named 'missing'"),
        ("things:missing", None, "the module things has no missing"),
        ("things:number", None, "things:number is a int, not an application"),
        ("things:plain", {"word": "x"}, "building things:plain failed: ValueError: Arguments can only be passed"),
    ],
)
async def test_an_application_that_cannot_be_built_says_why(
    mesh: SmallMesh, keeper: Keeper, entry: str, args: dict[str, str] | None, told: str
) -> None:
    assert told in await reason(keeper, served(mesh, entry, args=args))


async def test_code_that_is_not_there_is_named(mesh: SmallMesh, keeper: Keeper, tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "things.py").write_text("")
    packed = pack(tmp_path / "src", (tmp_path / "artifacts").as_uri())
    for file in (tmp_path / "artifacts").rglob("*"):
        if file.is_file():
            file.unlink()
    assert packed.uri in await reason(keeper, served(mesh, code=packed))


async def test_grpc_functions_that_serve_does_not_have_are_refused(mesh: SmallMesh, keeper: Keeper) -> None:
    """Whatever started Serve first in this cluster has others."""
    first = served(mesh)
    first.name = "first"
    missing = served(mesh, functions=["tonic.add_Tonic_to_server"])
    missing.name = "missing"
    second = served(mesh, functions=["ray.serve.generated.serve_pb2_grpc.add_FruitServiceServicer_to_server"])
    await keeper.place(application(keeper, first))
    await keeper.wait_ready()
    await keeper.place(application(keeper, first, missing, second))
    await keeper.wait_status(
        lambda status: (
            len(status.deployments) == 3
            and "tonic.add_Tonic_to_server cannot be imported" in status.deployments[1].reason
            and "runs without the gRPC functions ray.serve.generated" in status.deployments[2].reason
        )
    )


async def test_a_revision_whose_constructor_raises_leaves_the_old_one_serving(mesh: SmallMesh, keeper: Keeper) -> None:
    await keeper.place(application(keeper, served(mesh, args={"word": "good"})))
    await keeper.wait_ready()
    http = await entry_point(keeper, "http")
    await keeper.place(application(keeper, served(mesh, args={"word": "raises"})))
    status = await keeper.wait_status(lambda status: "Ray Serve says DEPLOY_FAILED" in status.deployments[0].reason)
    assert "this word is not taken" in status.deployments[0].reason
    assert (status.phase, status.serving_revision) == (pb.DEGRADED, 1)
    assert await over_http(http, "/scaled/1") == {"answer": 2, "word": "good"}
    await keeper.delete()
    await keeper.wait_gone()
    assert not {name for name in await applications(http) if f".{keeper.app.name}." in name}
