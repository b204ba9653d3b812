"""Brokers, replicas and a gateway on a real etcd, for all tests of queued requests over HTTP."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import openai
import pytest

from serving.local.etcd import EtcdCluster, EtcdOptions, start_etcd
from tests.support.broker_serving import WORKER, BrokerProcess, PythonProcess, broker_config, go, worker_config
from tests.support.llm_serving import GatewayProcess, LlmProcess, ReplicaProcess, llm_config
from tests.support.waiting import eventually

APP = "app"
COUNTS = "counts"  # an application whose class yields its answers
NOBODY = "nobody"  # one without replicas
PULLED_MODEL = "pulled-chat"  # other tests ask for the usual one by its own name
PULLED = "pulled"  # one whose class and language model get their requests through its broker


P = TypeVar("P", bound=ReplicaProcess)


@dataclass
class World:
    """A broker, a Python replica and a language model of `APP`, and what tests start beside them."""

    folder: Path
    etcd: EtcdCluster
    gateway: GatewayProcess
    started: list[ReplicaProcess] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def folder_of(self, application: str) -> Path:
        folder = self.folder / application
        folder.mkdir(exist_ok=True)
        return folder

    def start(self, made: P, *, wait: bool = True) -> P:
        self.started.append(made)
        if wait:
            made.wait_state("ready", registered=True)
        return made

    def broker(
        self, application: str = APP, name: str = "queue-r1-0", *, wait: bool = True, **changes: Any
    ) -> BrokerProcess:
        folder = self.folder_of(application)
        config = broker_config(folder, self.etcd.config(), name=name, application=application, **changes)
        return self.start(BrokerProcess(folder, config), wait=wait)

    def worker(
        self, application: str = APP, entry: str = "Worker", name: str = "worker-r1-0", *, wait: bool = True
    ) -> PythonProcess:
        folder = self.folder_of(application)
        config = worker_config(folder, self.etcd.config(), application=application, entry=entry, name=name)
        return self.start(PythonProcess(folder, config), wait=wait)

    def chat(self, application: str = APP, name: str = "chat-r1-0", *, wait: bool = True, **changes: Any) -> LlmProcess:
        folder = self.folder_of(application)
        config = llm_config(folder, etcd=self.etcd.config(), application=application, name=name, **changes)
        return self.start(LlmProcess(folder, config), wait=wait)

    def go(self, application: str = APP) -> None:
        go(self.folder / application)

    def pulling_broker(self, *, wait: bool = True) -> BrokerProcess:
        """Of `PULLED`; its journals are those of the one before."""
        return self.broker(PULLED, wait=wait, pulled=[WORKER, "chat"], max_items=20)

    def next_name(self, deployment: str) -> str:
        return f"{deployment}-r1-{next(self.numbers) + 1}"

    def running(self, application: str, name: str) -> ReplicaProcess:
        """The one that runs, by the beginning of its name."""
        return next(
            one
            for one in self.started
            if one.config.application == application and one.config.id.startswith(name) and one.process.poll() is None
        )

    @property
    def llm(self) -> LlmProcess:
        """The language model's of `APP`."""
        return next(one for one in self.started if isinstance(one, LlmProcess))

    @contextmanager
    def another_gateway(self, **changes: Any) -> Iterator[GatewayProcess]:
        name = f"gateway{next(self.numbers)}"
        made = GatewayProcess(self.folder, self.etcd.config(), name=name, leave_s=0.0, **changes)
        try:
            yield made
        finally:
            made.end()


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("queued")
    etcd = start_etcd(folder / "etcd", options=EtcdOptions(die_with_parent=True))
    gateway = None
    made: World | None = None
    try:
        gateway = GatewayProcess(folder, etcd.config(), leave_s=0.0)
        made = World(folder, etcd, gateway)
        for process in (made.broker(wait=False), made.worker(wait=False), made.chat(wait=False)):
            process.wait_state("ready", registered=True)
        url = f"{gateway.url}/v1/models"
        eventually(lambda: httpx.get(url).json()["data"], timeout_s=30, what="the model at the gateway")
        yield made
        faults = [line for line in gateway.log().splitlines() if "internal failure" in line]
        assert not faults, faults[0]
    finally:
        for process in made.started if made is not None else ():
            process.kill()
        if gateway is not None:
            gateway.end()
        etcd.kill()


@pytest.fixture(scope="session")
def pulled(world: World) -> World:
    """The processes of `PULLED`, known to the gateway."""
    broker, worker = world.pulling_broker(wait=False), world.worker(PULLED, wait=False)
    for process in (broker, worker, world.chat(PULLED, wait=False, model=PULLED_MODEL)):
        process.wait_state("ready", registered=True)
    tensors = {"inputs": [{"name": "n", "datatype": "INT64", "shape": [1], "data": [1]}]}
    url = f"{world.gateway.url}/v2/models/{PULLED}/{WORKER}/infer"

    def there() -> bool:
        return httpx.post(url, json=tensors, timeout=60).status_code == 200

    eventually(there, timeout_s=60, what="the gateway knows the application")
    return world


@pytest.fixture(autouse=True)
def waits_again(world: World) -> Iterator[None]:
    """What a test has let go waits in the next one, however that one ended."""
    yield
    (world.folder / PULLED / "go").unlink(missing_ok=True)


@pytest.fixture
async def http(world: World) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=world.gateway.url, timeout=120) as client:
        yield client


@pytest.fixture
async def client(world: World) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{world.gateway.url}/v1", api_key="none", max_retries=0) as made:
        yield made


__all__ = ["APP", "COUNTS", "NOBODY", "PULLED", "PULLED_MODEL", "WORKER", "World"]
