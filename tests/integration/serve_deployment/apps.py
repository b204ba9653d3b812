"""Applications of Ray Serve as their users write them, and specs of them."""

from __future__ import annotations

import json
from textwrap import dedent
from typing import Any

from serving._proto import records_pb2 as pb
from serving.deployment.artifact_archive import pack
from tests.integration.master.small_mesh import Keeper, SmallMesh

GRPC = "ray.serve.generated.serve_pb2_grpc.add_UserDefinedServiceServicer_to_server"

CODE = """
import asyncio
import os

from fastapi import FastAPI
from ray import serve
from ray.serve.generated.serve_pb2 import UserDefinedResponse

api = FastAPI()
light = {"num_cpus": 0.01}


@serve.deployment(ray_actor_options=light)
class Scale:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, number):
        return number * self.factor


@serve.deployment(ray_actor_options=light, graceful_shutdown_wait_loop_s=0.1)
@serve.ingress(api)
class Front:
    def __init__(self, scale, word):
        if word == "raises":
            raise RuntimeError("this word is not taken")
        self.scale = scale
        self.word = word

    @api.get("/scaled/{number}")
    async def scaled(self, number: int):
        return {"answer": await self.scale.remote(number), "word": self.word}

    @api.get("/about")
    def about(self):
        try:
            import shipped

            name = shipped.NAME
        except ImportError:
            name = ""
        return {"greeting": os.environ.get("GREETING"), "pid": os.getpid(), "shipped": name}

    @api.get("/slow")
    async def slow(self):
        await asyncio.sleep(4)
        return {"word": self.word}

    async def Method1(self, message):
        return UserDefinedResponse(greeting=self.word, num_x2=await self.scale.remote(message.num))


def build(args):
    return Front.bind(Scale.bind(args.get("factor", 2)), args.get("word", "hello"))


plain = build({})
number = 3
"""


def code(mesh: SmallMesh) -> pb.Artifact:
    folder = mesh.directory / "serve-code"
    folder.mkdir(exist_ok=True)
    (folder / "things.py").write_text(dedent(CODE))
    return pack(folder, (mesh.directory / "artifacts").as_uri())


def served(mesh: SmallMesh, entry: str = "things:build", **more: Any) -> pb.DeploymentSpec:
    """A deployment; `args` as a mapping."""
    args, env, artifact = more.pop("args", None), more.pop("env", {}), more.pop("code", None)
    return pb.DeploymentSpec(
        name="web",
        resources=pb.Resources(cpus=0.1),
        replicas=pb.Replicas(min=1, max=1),
        max_restarts=-1,
        drain_timeout_s=20.0,
        env=env,
        serve=pb.ServeDeployment(
            import_path=entry,
            code=artifact or code(mesh),
            args=json.dumps(args) if args else "",
            grpc_servicer_functions=more.pop("functions", [GRPC]),
            **more,
        ),
    )


def application(keeper: Keeper, *deployments: pb.DeploymentSpec) -> pb.ApplicationSpec:
    return pb.ApplicationSpec(namespace=keeper.app.namespace, name=keeper.app.name, deployments=deployments)
