"""A Python deployment that says which revision answered, and clients that ask it while everything changes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from textwrap import dedent

import numpy as np

from serving._proto import records_pb2 as pb
from serving.deployment.artifact_archive import pack
from serving.discovery import InferenceClient, Resolver
from serving.sdk.tensors import encode_request
from tests.integration.master.small_mesh import Keeper, SmallMesh, until

CODE = """
import asyncio
import numpy as np


class Says:
    def __init__(self, answer=0, failing=0):
        self.answer, self.failing, self.asked, self.slow = answer, failing, 0, False

    async def infer(self, request):
        self.asked += 1
        self.slow = self.slow or request["x"].size == 7
        if self.slow:
            await asyncio.sleep(0.3)
        if self.failing and self.asked % self.failing == 0:
            raise RuntimeError("this revision is not right")
        return {"y": np.array([self.answer, self.asked])}
"""


def packed_code(mesh: SmallMesh, name: str = "says") -> pb.Artifact:
    """`name` is that of the folder, which is made."""
    folder = mesh.directory / name
    folder.mkdir()
    (folder / "says.py").write_text(dedent(CODE))
    return pack(folder, (mesh.directory / "artifacts").as_uri())


def says(
    code: pb.Artifact, answer: int, *, name: str = "says", failing: int = 0, replicas: int = 1
) -> pb.DeploymentSpec:
    made = pb.DeploymentSpec(
        name=name,
        resources=pb.Resources(cpus=0.1),
        replicas=pb.Replicas(min=replicas, max=replicas),
        max_restarts=-1,
        drain_timeout_s=20.0,  # a drain ends when nothing runs; the machine may stand still meanwhile
    )
    made.python.entry, made.python.model = "says:Says", "says"
    made.python.code.CopyFrom(code)
    made.python.args = f'{{"answer": {answer}, "failing": {failing}}}'
    return made


def application(keeper: Keeper, *deployments: pb.DeploymentSpec) -> pb.ApplicationSpec:
    return pb.ApplicationSpec(namespace=keeper.app.namespace, name=keeper.app.name, deployments=deployments)


class Clients:
    """Asks one request after the other with each of a few workers; counts the answers and keeps what failed."""

    def __init__(self, client: InferenceClient) -> None:
        self.client = client
        self.answers: Counter[int] = Counter()
        self.failures: list[Exception] = []
        self.over = False

    async def one(self, *metadata: tuple[str, str]) -> int:
        request = encode_request("says", {"x": np.zeros(1, np.float32)})
        answer = await self.client.call("ModelInfer", request, timeout_s=60.0, model="says", metadata=metadata)
        return int(np.frombuffer(answer.raw_output_contents[0], np.int64)[0])

    async def work(self) -> None:
        while not self.over:
            try:
                self.answers[await self.one()] += 1
            except Exception as error:  # noqa: BLE001 - the test looks at all of them
                self.failures.append(error)
            await asyncio.sleep(0.005)

    async def since_now(self, count: int) -> Counter[int]:
        """The next so many answers."""
        before = Counter(self.answers)

        async def come() -> bool:
            return self.answers.total() - before.total() >= count

        await until(come)
        return self.answers - before


@asynccontextmanager
async def clients(keeper: Keeper, workers: int = 2) -> AsyncIterator[Clients]:
    resolver = Resolver(keeper.client, keeper.app)
    await resolver.start()
    try:
        async with InferenceClient(resolver, application=str(keeper.app)) as client:
            made = Clients(client)
            tasks = [asyncio.create_task(made.work()) for _ in range(workers)]
            yield made
            made.over = True
            await asyncio.gather(*tasks)
    finally:
        await resolver.close()
