"""A client that answers from memory in place of the SDK's (our own seam), and a runner for the command."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from serving._proto import keeper_pb2 as api
from serving._proto import records_pb2 as pb
from serving.cli.group import mesh
from serving.errors import MeshError, NotFound
from serving.sdk.status import AppEvent, AppStatus, DeployResult, ModelMetadata, TensorMetadata
from serving.store.keys import AppKey


def view(name: str = "digits", *, phase: pb.Phase = pb.READY, message: str = "2 of 2 ready") -> api.ApplicationView:
    """An application with one deployment of two replicas."""
    found = api.ApplicationView(phase=phase, message=message)
    found.stored.spec.namespace, found.stored.spec.name = "default", name
    found.stored.revision = 2
    found.decision.cluster, found.decision.generation = "east", 1
    found.status.serving_revision = 2
    deployment = found.status.deployments.add(name="digits", wanted=2, ready=1)
    deployment.replicas.add(id="digits-r2-0", state=pb.REPLICA_READY, address="127.0.0.1:9000", pid=7, revision=2)
    deployment.replicas.add(id="digits-r2-1", state=pb.REPLICA_FAILED, revision=2, reason="model digits: no file")
    found.status.conditions.add(type="ReplicasReady", status=False, message="1 of 2 replicas is missing")
    return found


class FakeMesh:
    """What the fake client answers, and what it was asked."""

    def __init__(self) -> None:
        self.apps = {"digits": view()}
        self.error: MeshError | None = None
        self.asked: list[tuple[str, Any]] = []
        self.result = DeployResult("default", "digits", 3, True, "uid-1")
        self.events: list[AppEvent] = []

    def client(self, *_: object, **__: object) -> FakeClient:
        return FakeClient(self)


class FakeClient:
    def __init__(self, fake: FakeMesh) -> None:
        self._mesh = fake

    async def __aenter__(self) -> FakeClient:
        if self._mesh.error is not None:
            raise self._mesh.error
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def status(self, key: AppKey, **_: object) -> AppStatus:
        found = self._mesh.apps.get(key.name)
        if found is None:
            raise NotFound(f"there is no application {key}")
        return AppStatus.from_view(found)

    async def list(self, namespace: str = "", **_: object) -> tuple[AppStatus, ...]:
        self._mesh.asked.append(("list", namespace))
        return tuple(AppStatus.from_view(item) for item in self._mesh.apps.values())

    async def deploy(self, app: Any, **values: Any) -> DeployResult:
        self._mesh.asked.append(("deploy", (app, values)))
        return self._mesh.result

    async def rollback(self, key: AppKey, to_revision: int, **values: Any) -> DeployResult:
        self._mesh.asked.append(("rollback", (key, to_revision, values["wait"])))
        return self._mesh.result

    async def scale(self, key: AppKey, deployment: str, **values: Any) -> DeployResult:
        self._mesh.asked.append(("scale", (key, deployment, values["least"], values["most"])))
        return self._mesh.result

    async def split(self, key: AppKey, name: str, weights: dict[str, int], **_: Any) -> DeployResult:
        self._mesh.asked.append(("split", (key, name, weights)))
        return self._mesh.result

    async def promote_rollout(self, key: AppKey, *, full: bool) -> bool:
        self._mesh.asked.append(("promote", (key, full)))
        return True

    async def pause_rollout(self, key: AppKey) -> bool:
        return await self._turn(key, True)

    async def resume_rollout(self, key: AppKey) -> bool:
        return await self._turn(key, False)

    async def _turn(self, key: AppKey, paused: bool) -> bool:
        await self.status(key)
        stored = self._mesh.apps[key.name].stored
        changed = stored.paused != paused
        stored.paused = paused
        return changed

    async def delete(self, key: AppKey, **values: Any) -> None:
        await self.status(key)
        self._mesh.asked.append(("delete", (key, values["wait"])))

    async def revisions(self, key: AppKey) -> tuple[pb.StoredSpec, ...]:
        await self.status(key)
        old = pb.StoredSpec(revision=2, uid="u", author="ann", note="rollback to revision 1")
        old.created_at.FromJsonString("2026-01-02T03:04:05Z")
        old.spec.deployments.add(name="digits", replicas=pb.Replicas(min=2, max=2))
        return (old,)

    async def clusters(self) -> tuple[api.ClusterView, ...]:
        record = pb.ClusterRecord(name="east", total=pb.Resources(cpus=8, memory_bytes=8 << 30), labels={"zone": "a"})
        record.available.CopyFrom(pb.Resources(cpus=6.5, memory_bytes=4 << 30))
        record.nodes.add(id="n0", address="10.0.0.7", total=record.total, available=record.available, head=True)
        apps = [api.ApplicationName(namespace="default", name="digits")]
        return (api.ClusterView(record=record, alive=True, applications=apps),)

    async def endpoints(self, key: AppKey, *, role: str) -> tuple[pb.Endpoint, ...]:
        self._mesh.asked.append(("endpoints", role))
        if key.name == "quiet" or key.name not in self._mesh.apps:
            return ()
        models = [pb.ModelRecord(name="digits", versions=["1"])]
        where = {"namespace": key.namespace, "application": key.name, "role": "direct", "address": "127.0.0.1:9000"}
        return (pb.Endpoint(id="digits-r2-0", state="ready", protocol="kserve-grpc", models=models, **where),)

    async def watch(self, app: object = "", *, namespace: str = "") -> AsyncIterator[AppEvent]:
        self._mesh.asked.append(("watch", (app, namespace)))
        for event in self._mesh.events:
            yield event

    async def model_metadata(self, _key: AppKey, model: str, **_: object) -> ModelMetadata:
        inputs = (TensorMetadata("image", "FP32", (-1, 2)),)
        return ModelMetadata(model, ("1",), "openvino", inputs, ())

    async def infer(self, _key: AppKey, model: str, inputs: dict[str, Any], **values: Any) -> dict[str, Any]:
        self._mesh.asked.append(("infer", (model, inputs, values["outputs"])))
        return {"sum": np.asarray(inputs["image"]).sum(axis=1), "label": np.array([b"one"], dtype=object)}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeMesh:
    made = FakeMesh()
    monkeypatch.setattr("serving.sdk.AsyncMeshClient", made.client, raising=False)
    state = {
        "version": 1,
        "phase": "ready",
        "etcd": {"endpoints": ["127.0.0.1:1"]},
        "artifacts": str(tmp_path / "artifacts"),
        "clusters": [],
        "processes": [],
    }
    (tmp_path / "mesh.json").write_text(json.dumps(state))
    monkeypatch.setenv("MESH_DIR", str(tmp_path))
    monkeypatch.delenv("MESH_CONFIG", raising=False)
    return made


@pytest.fixture
def run() -> Callable[..., Result]:
    def invoke(*arguments: str) -> Result:
        return CliRunner().invoke(mesh, list(arguments), prog_name="mesh")

    return invoke
