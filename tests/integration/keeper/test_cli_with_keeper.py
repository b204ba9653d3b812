"""The `mesh` command as a process, against a real keeper on a real etcd."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from keeper_harness import Bench, eventually

SPEC = """
name: shop
deployments:
  - name: digits
    triton: {{repository: ./models}}
    resources: {{cpus: {cpus}}}
"""


class Mesh:
    """Runs the command in the folder of a mesh."""

    def __init__(self, bench: Bench) -> None:
        self.folder = bench.folder
        state = {
            "version": 1,
            "phase": "ready",
            "etcd": {"endpoints": list(bench.etcd.endpoints)},
            "artifacts": str(bench.folder / "artifacts"),
            "clusters": [],
            "processes": [],
        }
        (bench.folder / "mesh.json").write_text(json.dumps(state))
        model = bench.folder / "models" / "digits" / "1"
        model.mkdir(parents=True)
        (model / "model.onnx").write_bytes(b"not looked at here")

    def spec(self, cpus: float) -> str:
        path = self.folder / "app.yaml"
        path.write_text(SPEC.format(cpus=cpus))
        return str(path)

    async def __call__(self, *arguments: str, code: int = 0) -> str:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "serving.cli",
            *arguments,
            env={**os.environ, "MESH_DIR": str(self.folder)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        assert process.returncode == code, (out, err)
        assert b"Traceback" not in err
        return (out if code == 0 else err).decode()

    async def json(self, *arguments: str) -> Any:
        return json.loads(await self(*arguments, "--json"))


async def test_the_life_of_an_application(bench: Bench) -> None:
    await bench.keeper()
    await bench.leader()
    await bench.cluster("east", cpus=4)
    mesh = Mesh(bench)

    async def known() -> bool:
        return bool((await mesh.json("clusters"))["clusters"])

    await eventually(known)
    assert (await mesh.json("clusters"))["clusters"][0]["total"]["cpus"] == 4.0
    dry = await mesh.json("deploy", mesh.spec(9), "--dry-run")
    assert dry["would_place"]["reasons"] == [
        {"cluster": "east", "reason": "needs 9 CPUs on one node, the largest has 4 for the mesh"}
    ]
    first = await mesh.json("deploy", mesh.spec(1), "--no-wait")
    assert (first["revision"], first["changed"]) == (1, True)
    assert (await mesh.json("deploy", mesh.spec(1), "--no-wait"))["changed"] is False
    await mesh("deploy", mesh.spec(2), "--no-wait")
    await bench.placed("east", generation=1, revision=2)

    async def starting() -> bool:
        return bool((await mesh.json("status", "shop"))["phase"] == "STARTING")

    await eventually(starting)
    assert "no endpoints" in await mesh("endpoints", "shop")
    for command in (("status",), ("endpoints",), ("revisions",), ("delete",)):
        assert "did you mean `default/shop`?" in await mesh(*command, "shp", code=3)
    assert "did you mean `default/shop`?" in await mesh("status", "other/shop", code=3)
    assert [item["revision"] for item in (await mesh.json("revisions", "shop"))["revisions"]] == [2, 1]
    assert (await mesh.json("rollback", "shop", "1", "--no-wait"))["revision"] == 3

    async def told_in_time() -> bool:
        return "is not ready after" in await mesh("deploy", mesh.spec(2), "--timeout", "2", code=5)

    await eventually(told_in_time)  # where the machine stops for two seconds, storing the spec takes all the time
    assert "default/shop is deleted" in await mesh("delete", "shop")
    assert "there is no application default/shop" in await mesh("status", "shop", code=3)


async def test_rollouts_and_sizes(bench: Bench) -> None:
    await bench.keeper()
    await bench.leader()
    await bench.cluster("east", cpus=4)
    mesh = Mesh(bench)
    for revision in (1, 2):
        await mesh("deploy", mesh.spec(revision), "--no-wait")
    assert (await mesh.json("rollback", "shop", "1", "--no-wait"))["revision"] == 3
    assert (await mesh.json("rollout", "pause", "shop"))["changed"] is True
    assert (await mesh.json("deploy", mesh.spec(3), "--no-wait"))["revision"] == 4
    assert (await mesh.json("rollout", "status", "shop"))["paused"] is True, "a later revision waits, too"
    assert (await mesh.json("rollout", "undo", "shop", "--no-wait"))["revision"] == 5
    assert (await mesh.json("rollout", "status", "shop"))["paused"] is False
    assert (await mesh.json("rollout", "resume", "shop"))["changed"] is False
    assert "did you mean `default/shop`?" in await mesh("rollout", "pause", "shp", code=3)
    assert (await mesh.json("scale", "shop/digits", "--replicas", "2", "--no-wait"))["revision"] == 6
    assert (await mesh.json("revisions", "shop"))["revisions"][0]["deployments"][0]["replicas"] == 2
    assert "has no deployment other (it has: digits)" in await mesh("scale", "shop/other", "--min", "1", code=3)
    assert "which needs autoscaling" in await mesh("scale", "shop/digits", "--max", "9", code=2)


async def test_nobody_answers(bench: Bench) -> None:
    mesh = Mesh(bench)
    assert "no keeper is registered in etcd" in await mesh("status", code=4)
    assert "no local mesh in" in await mesh("status", "--dir", str(bench.folder / "nowhere"), code=4)
    text = await mesh("deploy", str(Path("missing.yaml")), "--no-wait", code=2)
    assert "missing.yaml" in text
