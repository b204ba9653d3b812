"""C++ deployments that a master runs: libraries in real actors, asked directly, behind a proxy and over REST."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tritonclient.grpc.aio as triton
from numpy.typing import NDArray
from onnx import numpy_helper
from tritonclient.utils import InferenceServerException

from examples.recommend import make
from examples.recommend.features import Tables, features
from serving._proto import records_pb2 as pb
from serving.deployment.artifact_archive import pack
from serving.sdk import Artifact, load_spec
from tests.integration.cpp_deployment.harness import build_libraries
from tests.integration.master.small_mesh import ROOT, Keeper, SmallMesh, proxies, until
from tests.integration.master.test_proxies import proxy_address

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_libraries(tmp_path_factory.mktemp("libraries"))


def cpp(mesh: SmallMesh, code: Path, library: str, *, name: str, replicas: int = 1, **more: Any) -> pb.DeploymentSpec:
    args, config = more.pop("args", None), more.pop("config", None)
    only = mesh.directory / f"code-{library}"
    only.mkdir(exist_ok=True)
    (only / f"lib{library}.so").write_bytes((code / f"lib{library}.so").read_bytes())
    return pb.DeploymentSpec(
        name=name,
        resources=pb.Resources(cpus=0.1),
        replicas=pb.Replicas(min=replicas, max=replicas),
        max_restarts=-1,
        drain_timeout_s=20.0,  # a drain ends when nothing runs; the machine may stand still meanwhile
        cpp=pb.CppDeployment(
            library=f"lib{library}.so",
            code=pack(only, (mesh.directory / "artifacts").as_uri()),
            args=json.dumps(args) if args else "",
            config=json.dumps(config) if config else "",
            **more,
        ),
    )


def application(keeper: Keeper, *deployments: pb.DeploymentSpec) -> pb.ApplicationSpec:
    return pb.ApplicationSpec(namespace=keeper.app.namespace, name=keeper.app.name, deployments=deployments)


async def ask(address: str, model: str, *inputs: tuple[str, str, NDArray[Any]]) -> Any:
    tensors = []
    for name, datatype, values in inputs:
        tensor = triton.InferInput(name, list(values.shape), datatype)
        tensor.set_data_from_numpy(values)
        tensors.append(tensor)
    async with triton.InferenceServerClient(address) as client:
        return await client.infer(model, tensors, client_timeout=60.0)


async def scaled(address: str, *values: float, what: str = "") -> list[float]:
    inputs: list[tuple[str, str, NDArray[Any]]] = [("x", "FP32", np.array(values, np.float32))]
    if what:
        inputs.append(("what", "BYTES", np.array([what.encode()], dtype=object)))
    return list((await ask(address, "scale", *inputs)).as_numpy("y"))


async def addresses(keeper: Keeper, deployment: str) -> list[str]:
    found = await keeper.endpoints()
    return sorted(one.address for one, _ in found.values() if one.deployment == deployment)


async def test_it_is_deployed_asked_and_reconfigured_in_place(keeper: Keeper, mesh: SmallMesh, code: Path) -> None:
    def wanted(offset: float, **more: Any) -> pb.ApplicationSpec:
        one = cpp(mesh, code, "scale", name="scale", args={"factor": 2}, config={"offset": offset}, **more)
        return application(keeper, one, proxies())

    await keeper.place(wanted(1))
    await keeper.wait_ready()
    (address,) = await addresses(keeper, "scale")
    proxy = await proxy_address(keeper)
    for where in (address, proxy):
        assert await scaled(where, 1, 2) == [3, 5]

    await keeper.place(wanted(7))
    await keeper.wait_ready()
    assert await addresses(keeper, "scale") == [address]  # the same process
    assert await scaled(proxy, 1, 2) == [9, 11]

    await keeper.place(wanted(-1))  # which it refuses
    status = await keeper.wait_status(lambda one: "an offset below 0" in str(one))
    assert await scaled(proxy, 1) == [9]
    assert status.revision == keeper.revision

    await keeper.place(wanted(3, threads=2))  # which needs another process
    status = await keeper.wait_ready()
    found = await keeper.endpoints()
    assert [name for name in found if name.startswith("scale-r4-")], f"{found}\n{status}"
    assert await scaled(proxy, 1) == [5]


async def test_deployments_call_each_other(keeper: Keeper, mesh: SmallMesh, code: Path) -> None:
    front = cpp(mesh, code, "asks", name="front", args={"deployment": "scale"})
    await keeper.place(application(keeper, cpp(mesh, code, "scale", name="scale", args={"factor": 5}), front))
    await keeper.wait_ready()
    (address,) = await addresses(keeper, "front")
    how = np.array([b"deployment"], dtype=object)
    answer = await ask(address, "front", ("x", "FP32", np.array([2], np.float32)), ("how", "BYTES", how))
    assert answer.as_numpy("y").tolist() == [10]


async def test_code_that_crashes_or_is_ill_is_replaced(keeper: Keeper, mesh: SmallMesh, code: Path) -> None:
    await keeper.place(application(keeper, cpp(mesh, code, "scale", name="scale")))
    await keeper.wait_ready()
    for what in ("crash", "sick"):
        (address,) = await addresses(keeper, "scale")
        before = await pid_of(keeper)
        try:
            await scaled(address, 1, what=what)
        except InferenceServerException:
            assert what == "crash"

        async def another(before: int = before) -> bool:
            return await pid_of(keeper) not in (0, before)

        await until(another)
        await keeper.wait_ready()
        (address,) = await addresses(keeper, "scale")
        assert await scaled(address, 4) == [4]


async def pid_of(keeper: Keeper) -> int:
    found = await keeper.endpoints()
    return next((endpoint.pid for endpoint, _ in found.values() if endpoint.state == "ready"), 0)


async def test_a_library_that_cannot_be_loaded_is_the_reason(keeper: Keeper, mesh: SmallMesh, code: Path) -> None:
    await keeper.place(application(keeper, cpp(mesh, code, "old_interface", name="scale")))
    await keeper.wait_status(lambda status: "compile it again with the headers of this mesh" in str(status))


# ------------------------------------------------------------------------------------------------ the example


def expected(known: Tables, ranker: Path, user: int, count: int, diversity: float) -> tuple[list[int], list[float]]:
    """What the pipeline must answer, computed here from the tables and the weights of the model."""
    weights = {one.name: numpy_helper.to_array(one) for one in onnx.load(ranker).graph.initializer}
    movies = np.array([movie for movie in range(len(known.titles)) if movie not in known.seen[user]])
    hidden = features(known, user, movies)
    for layer in range(3):
        hidden = hidden @ weights[f"weights_{layer}"] + weights[f"biases_{layer}"]
        hidden = np.maximum(hidden, 0) if layer < 2 else hidden
    stars = hidden[:, 0]
    genres = known.genres[movies]
    likeness = np.zeros(len(movies), np.float32)
    chosen: list[int] = []
    for _ in range(count):
        worth = stars - np.float32(diversity) * likeness
        worth[chosen] = -np.inf
        best = int(worth.argmax())
        chosen.append(best)
        shared = np.minimum(genres, genres[best]).sum(axis=1) / np.maximum(genres, genres[best]).sum(axis=1)
        likeness = np.maximum(likeness, shared.astype(np.float32))
    return [int(movies[one]) for one in chosen], [float(stars[one]) for one in chosen]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tables]:
    folder = tmp_path_factory.mktemp("recommend")
    return folder, make.make(folder)


async def test_the_example_recommends(keeper: Keeper, mesh: SmallMesh, made: tuple[Path, Tables]) -> None:
    folder, known = made
    ranker = folder / "models" / "ranker" / "1" / "model.onnx"
    spec = example(keeper, mesh, folder)
    await keeper.place(spec)
    await keeper.wait_ready()
    (address,) = await addresses(keeper, "recommend")
    proxy = await proxy_address(keeper)
    for user in (0, 17, 42, 299):
        movies, stars = expected(known, ranker, user, 10, 0.3)
        for where in (address, proxy):
            answer = await ask(where, "recommend", ("user", "INT64", np.array([user])))
            assert answer.as_numpy("movie").tolist() == movies
            np.testing.assert_allclose(answer.as_numpy("stars"), stars, rtol=1e-4)
            assert answer.as_numpy("title")[0].decode() == known.titles[movies[0]]
        assert over_rest(address, user)["movie"] == movies
    with pytest.raises(InferenceServerException, match="user 300 is not known") as caught:
        await ask(proxy, "recommend", ("user", "INT64", np.array([300])))
    assert caught.value.status() == "StatusCode.NOT_FOUND"

    spec.deployments[0].cpp.config = json.dumps({"diversity": 2})
    await keeper.place(spec)
    await keeper.wait_ready()
    answer = await ask(proxy, "recommend", ("user", "INT64", np.array([17])), ("count", "INT64", np.array([5])))
    assert answer.as_numpy("movie").tolist() == expected(known, ranker, 17, 5, 2)[0]
    assert await addresses(keeper, "recommend") == [address]


def example(keeper: Keeper, mesh: SmallMesh, folder: Path) -> pb.ApplicationSpec:
    """The spec of the example, with what was made for the test."""
    text = (ROOT / "examples" / "recommend" / "app.yaml").read_text().replace("./build", str(folder))
    file = mesh.directory / "recommend.yaml"
    file.write_text(text)
    read = load_spec(file)
    packed = {one: pack(one, (mesh.directory / "artifacts").as_uri()) for one in read.local_folders()}
    spec = read.to_spec({one: Artifact(made.uri, made.digest, made.size_bytes) for one, made in packed.items()})
    spec.namespace, spec.name = keeper.app.namespace, keeper.app.name
    return spec


def over_rest(address: str, user: int) -> dict[str, Any]:
    inputs = [{"name": "user", "datatype": "INT64", "shape": [1], "data": [user]}]
    request = urllib.request.Request(
        f"http://{address}/v2/models/recommend/infer", data=json.dumps({"inputs": inputs}).encode()
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return {output["name"]: output["data"] for output in json.loads(answer.read())["outputs"]}
