"""Python deployments that a master runs: real actors, asked directly and behind a proxy."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc.aio as triton
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from tritonclient.utils import InferenceServerException

from serving._proto import records_pb2 as pb
from serving.deployment.artifact_archive import pack
from serving.sdk import Artifact, load_spec
from serving.types import ROLE_PROXY
from tests.integration.master.small_mesh import ROOT, Keeper, SmallMesh, proxies, until
from tests.integration.master.test_proxies import Traffic, proxy_address, row_of
from tests.support.processes import replica_pids

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

CODE = """
import asyncio
import os
from pathlib import Path

import numpy as np

from serving.errors import InvalidArgument
from serving.python_deployment import Handle, Tensor


class Scale:
    inputs = (Tensor("x", "FP32", (-1,)),)

    def __init__(self, factor=1.0):
        self.factor = factor
        self.offset = 0.0
        self.sick = False

    async def infer(self, request):
        if request["x"].size == 5:
            self.sick = True
        return {"y": request["x"] * np.float32(self.factor) + np.float32(self.offset)}

    def reconfigure(self, config):
        self.offset = config.get("offset", 0.0)

    async def health(self):
        return not self.sick


class Front:
    def __init__(self):
        self.scale = Handle("scale")

    async def infer(self, request):
        answer = await self.scale.infer({"x": request["x"]})
        return {"y": answer["y"] + 1}


class BlockingFront(Front):
    def infer(self, request):
        return {"y": self.scale.infer_blocking({"x": request["x"]})["y"] + 2}


class About:
    def infer(self, request):
        return {"left": np.array([request.left_s]), "trace": np.array([request.traceparent.encode()], dtype=object)}


class AsksAbout:
    def __init__(self):
        self.about = Handle("about")

    async def infer(self, request):
        return await self.about.infer({})


class Waits:
    def __init__(self):
        self.cancelled = 0

    async def infer(self, request):
        if request.parameters.get("count"):
            return {"cancelled": np.array([self.cancelled])}
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


class Counts:
    async def infer(self, request):
        for index in range(3):
            yield {"i": np.array([index])}


class Where:
    def infer(self, request):
        import shipped

        told = [os.environ["GREETING"], Path("data.txt").read_text(), shipped.NAME, str(Path.cwd())]
        return {"told": np.array([text.encode() for text in told], dtype=object)}
"""


def code(mesh: SmallMesh) -> pb.Artifact:
    folder = mesh.directory / "python-code"
    folder.mkdir(exist_ok=True)
    (folder / "things.py").write_text(dedent(CODE))
    (folder / "data.txt").write_text("from the folder")
    return pack(folder, (mesh.directory / "artifacts").as_uri())


def python(mesh: SmallMesh, kind: str, *, name: str, replicas: int = 1, **more: Any) -> pb.DeploymentSpec:
    args, config = more.pop("args", None), more.pop("config", None)
    return pb.DeploymentSpec(
        name=name,
        resources=pb.Resources(cpus=0.1),
        replicas=pb.Replicas(min=replicas, max=replicas),
        max_restarts=-1,
        drain_timeout_s=20.0,  # a drain ends when nothing runs; the machine may stand still meanwhile
        env=more.pop("env", {}),
        python=pb.PythonDeployment(
            entry=f"things:{kind}",
            code=code(mesh),
            args=json.dumps(args) if args else "",
            config=json.dumps(config) if config else "",
            **more,
        ),
    )


def application(keeper: Keeper, *deployments: pb.DeploymentSpec) -> pb.ApplicationSpec:
    return pb.ApplicationSpec(namespace=keeper.app.namespace, name=keeper.app.name, deployments=deployments)


async def scaled(address: str, *values: float, model: str = "scale") -> list[float]:
    async with triton.InferenceServerClient(address) as client:
        tensor = triton.InferInput("x", [len(values)], "FP32")
        tensor.set_data_from_numpy(np.array(values, dtype=np.float32))
        answer = (await client.infer(model, [tensor], client_timeout=60.0)).as_numpy("y")
        assert answer is not None
        found: list[float] = answer.tolist()
        return found


async def address_of(keeper: Keeper, replica: str, wanted: Callable[[pb.Endpoint], bool] = lambda _: True) -> str:
    found = ""

    async def look() -> bool:
        nonlocal found
        listed = {name: endpoint for name, (endpoint, _) in (await keeper.endpoints()).items()}
        found = listed[replica].address if replica in listed and wanted(listed[replica]) else ""
        return bool(found)

    await until(look)
    return found


async def test_it_answers_directly_and_behind_a_proxy(mesh: SmallMesh, keeper: Keeper) -> None:
    await keeper.place(
        application(keeper, python(mesh, "Scale", name="scale", replicas=2, args={"factor": 3}), proxies())
    )
    status = await keeper.wait_ready()
    assert [(found.name, found.ready) for found in status.deployments] == [("scale", 2), ("grpc", 1)]
    record = (await keeper.endpoints())["scale-r1-1"][0]
    assert (record.protocol, record.role, record.pid) == ("kserve-grpc", "direct", row_of(status, "scale-r1-1").pid)
    assert [(model.name, list(model.versions)) for model in record.models] == [("scale", ["1"])]
    assert record.metrics_address
    proxy = await proxy_address(keeper)
    for address in (record.address, proxy):
        assert await scaled(address, 1, 2) == [3, 6]
        with pytest.raises(InferenceServerException, match=r"unknown model|offers") as caught:
            await scaled(address, 1, model="other")
        assert caught.value.status() == "StatusCode.NOT_FOUND"
        with pytest.raises(InferenceServerException, match=r"expects the shape \[-1\]") as caught:
            await wrong_shape(address)
        assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


async def wrong_shape(address: str) -> None:
    async with triton.InferenceServerClient(address) as client:
        tensor = triton.InferInput("x", [1, 1], "FP32")
        tensor.set_data_from_numpy(np.ones((1, 1), dtype=np.float32))
        await client.infer("scale", [tensor], client_timeout=60.0)


def wheel(folder: Path) -> Path:
    """A package that no index has."""
    import zipfile

    path = folder / "shipped-1.0-py3-none-any.whl"
    info = "shipped-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("shipped.py", "NAME = 'installed by pip'\n")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: shipped\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


async def test_variables_folder_and_packages_are_there(mesh: SmallMesh, keeper: Keeper, tmp_path: Path) -> None:
    environment = pb.PythonEnvironment(pip=[str(wheel(tmp_path))])
    await keeper.place(
        application(keeper, python(mesh, "Where", name="where", env={"GREETING": "hello"}, runtime_env=environment))
    )
    await keeper.wait_ready()
    async with triton.InferenceServerClient(await address_of(keeper, "where-r1-0")) as client:
        told = [text.decode() for text in (await client.infer("where", [])).as_numpy("told").tolist()]
    assert told[:3] == ["hello", "from the folder", "installed by pip"]
    assert "/artifacts/" in told[3]


async def test_what_pip_cannot_install_is_named(mesh: SmallMesh, keeper: Keeper, tmp_path: Path) -> None:
    environment = pb.PythonEnvironment(pip=[str(tmp_path / "missing-1.0-py3-none-any.whl")])
    await keeper.place(application(keeper, python(mesh, "Scale", name="scale", runtime_env=environment)))
    status = await keeper.wait_status(lambda status: status.phase == pb.FAILED)
    assert "pip cannot install" in status.deployments[0].reason
    assert "missing-1.0" in status.deployments[0].reason


async def test_another_config_reaches_running_replicas_in_place(mesh: SmallMesh, keeper: Keeper) -> None:
    first = application(keeper, python(mesh, "Scale", name="scale", config={"offset": 1}))
    await keeper.place(first)
    before = await keeper.wait_ready()
    changed = application(keeper, python(mesh, "Scale", name="scale", config={"offset": 7}))
    await keeper.place(changed)
    after = await keeper.wait_status(lambda status: status.serving_revision == 2 and status.phase == pb.READY)
    assert row_of(after, "scale-r1-0").pid == row_of(before, "scale-r1-0").pid
    assert await scaled(await address_of(keeper, "scale-r1-0", lambda found: found.revision == 2), 1) == [8]


async def test_other_code_is_rolled_out_and_a_proxys_clients_see_nothing(mesh: SmallMesh, keeper: Keeper) -> None:
    await keeper.place(application(keeper, python(mesh, "Scale", name="scale", replicas=2), proxies()))
    before = await keeper.wait_ready()
    address = await proxy_address(keeper)

    async def ask() -> NDArray[np.int64]:
        return np.array(await scaled(address, 1)).astype(np.int64)

    async with Traffic(ask, np.array([1])) as traffic:
        await keeper.place(
            application(keeper, python(mesh, "Scale", name="scale", replicas=2, args={"factor": 1.0}), proxies())
        )
        await keeper.wait_ready()
        await traffic.wait_for(10)
    assert (traffic.failed, traffic.wrong) == ([], [])
    assert set(await keeper.endpoints()) == {"scale-r2-0", "scale-r2-1"}

    async def gone() -> bool:
        return not {row_of(before, name).pid for name in ("scale-r1-0", "scale-r1-1")} & set(replica_pids(mesh.ray))

    await until(gone)


async def test_handles_call_other_deployments(mesh: SmallMesh, keeper: Keeper) -> None:
    await keeper.place(
        application(
            keeper,
            python(mesh, "Scale", name="scale", args={"factor": 10}),
            python(mesh, "Front", name="front"),
            python(mesh, "BlockingFront", name="blocking"),
        )
    )
    await keeper.wait_ready()
    assert await scaled(await address_of(keeper, "front-r1-0"), 1, 2, model="front") == [11, 21]
    assert await scaled(await address_of(keeper, "blocking-r1-0"), 1, 2, model="blocking") == [12, 22]


async def test_handles_carry_deadline_and_trace(mesh: SmallMesh, keeper: Keeper) -> None:
    await keeper.place(
        application(keeper, python(mesh, "About", name="about"), python(mesh, "AsksAbout", name="front"))
    )
    await keeper.wait_ready()
    trace_id = "ab" * 16
    async with triton.InferenceServerClient(await address_of(keeper, "front-r1-0")) as client:
        headers = {"traceparent": f"00-{trace_id}-{'cd' * 8}-01"}
        answer = await client.infer("front", [], client_timeout=60.0, headers=headers)
        assert 33 < answer.as_numpy("left")[0] < 60.5, "more than without one, and no more than the client has"
        assert answer.as_numpy("trace")[0].decode().split("-")[1] == trace_id
        without = await client.infer("front", [])
        assert 16 < without.as_numpy("left")[0] < 32  # gRPC rounds up


async def test_streams_and_cancellation_pass_a_proxy(mesh: SmallMesh, keeper: Keeper) -> None:
    await keeper.place(
        application(keeper, python(mesh, "Waits", name="waits"), python(mesh, "Counts", name="counts"), proxies())
    )
    await keeper.wait_ready()

    async def requests() -> AsyncIterator[dict[str, Any]]:
        yield {"model_name": "counts", "inputs": [], "request_id": "s"}

    async with triton.InferenceServerClient(await proxy_address(keeper)) as client:
        found = [result.as_numpy("i").tolist() async for result, _ in client.stream_infer(requests())]
        assert found == [[0], [1], [2]]
        with pytest.raises(InferenceServerException) as caught:
            await client.infer("waits", [], client_timeout=10)  # long enough for it to begin
        assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"

        async def cancelled() -> bool:
            answer = await client.infer("waits", [], parameters={"count": True})
            return bool(answer.as_numpy("cancelled")[0] == 1)

        await until(cancelled)


async def test_a_replica_that_says_it_is_sick_is_restarted(mesh: SmallMesh, keeper: Keeper) -> None:
    await keeper.place(application(keeper, python(mesh, "Scale", name="scale")))
    victim = row_of(await keeper.wait_ready(), "scale-r1-0").pid
    await scaled(await address_of(keeper, "scale-r1-0"), 1, 2, 3, 4, 5)
    address = await address_of(keeper, "scale-r1-0", lambda found: found.pid != victim)
    assert await scaled(address, 1) == [1]
    assert "health() keeps failing: health() answered False" in mesh.master_log(keeper.app)


async def test_sigterm_drains_it(mesh: SmallMesh, keeper: Keeper) -> None:
    await keeper.place(application(keeper, python(mesh, "Scale", name="scale")))
    victim = row_of(await keeper.wait_ready(), "scale-r1-0").pid
    os.kill(victim, signal.SIGTERM)
    await address_of(keeper, "scale-r1-0", lambda found: found.pid != victim)
    log = mesh.directory / "logs" / "replicas" / keeper.app.namespace / keeper.app.name / "scale" / "scale-r1-0.log"
    assert '"msg":"replica drained"' in log.read_text()


async def test_a_class_that_fails_says_why(mesh: SmallMesh, keeper: Keeper) -> None:
    await keeper.place(application(keeper, python(mesh, "Missing", name="scale"), proxies()))
    status = await keeper.wait_status(lambda status: status.phase == pb.FAILED)
    assert "the module things has no Missing" in status.deployments[0].reason
    assert (await keeper.endpoints(ROLE_PROXY)) is not None


async def test_the_example_reads_digits(mesh: SmallMesh, keeper: Keeper) -> None:
    example = load_spec(ROOT / "examples" / "reader" / "app.yaml")
    packed = {folder: pack(folder, (mesh.directory / "artifacts").as_uri()) for folder in example.local_folders()}
    wanted = example.to_spec({path: Artifact(made.uri, made.digest, made.size_bytes) for path, made in packed.items()})
    wanted.namespace, wanted.name = keeper.app.namespace, keeper.app.name
    await keeper.place(wanted)
    await keeper.wait_ready()
    digits = load_digits()
    tensor = triton.InferInput("images", [20], "BYTES")
    images = [image.astype(np.uint8).tobytes() for image in digits.data[:20]]
    tensor.set_data_from_numpy(np.array(images, dtype=object))
    async with triton.InferenceServerClient(await address_of(keeper, "reader-r1-0")) as client:
        answer = await client.infer("reader", [tensor], client_timeout=60.0)
    right = answer.as_numpy("digit") == digits.target[:20]
    assert right.mean() >= 0.9
