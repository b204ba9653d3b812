"""An application of its own for a test: its brokers and replicas as processes, and the command `mesh queue` for it."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from serving.config import EtcdConfig
from tests.support.broker_serving import BrokerProcess, PythonProcess, broker_config, told, worker_config
from tests.support.llm_serving import ReplicaProcess


class World:
    """An application of its own: its brokers and its replicas."""

    def __init__(self, folder: Path, etcd: EtcdConfig, application: str) -> None:
        self.folder = folder
        self.etcd = etcd
        self.application = application
        self.started: list[ReplicaProcess] = []

    def broker(self, name: str = "queue-r1-0", **changes: Any) -> BrokerProcess:
        made = BrokerProcess(
            self.folder, broker_config(self.folder, self.etcd, name=name, application=self.application, **changes)
        )
        self.started.append(made)
        made.wait_state("ready", registered=True)
        return made

    def worker(self, name: str = "worker-r1-0", entry: str = "Worker") -> PythonProcess:
        made = PythonProcess(
            self.folder, worker_config(self.folder, self.etcd, name=name, application=self.application, entry=entry)
        )
        self.started.append(made)
        made.wait_state("ready", registered=True)
        return made

    @property
    def runs(self) -> list[str]:
        return told(self.folder)


async def mesh(world: World, *words: str) -> tuple[int, str]:
    """`mesh queue`; its exit code, and what it said."""
    config = world.folder / "mesh.yaml"
    endpoints = json.dumps(list(world.etcd.endpoints))
    clusters = "[{name: east, ray_address: '127.0.0.1:1'}]"
    if not config.exists():  # another command may be reading it
        config.write_text(f"etcd: {{endpoints: {endpoints}}}\nartifacts: {world.folder}\nclusters: {clusters}\n")
    command = [sys.executable, "-m", "serving.cli", "queue", *words, "--config", str(config)]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


async def mesh_json(world: World, *words: str) -> Any:
    code, said = await mesh(world, *words, "--json")
    assert code == 0, said
    return json.loads(said)
