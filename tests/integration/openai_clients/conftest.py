"""A gateway and a replica of the tiny chat model behind it, for all tests of other people's clients together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest

from serving.local.etcd import EtcdCluster, EtcdOptions, start_etcd
from tests.support.llm_serving import MODEL, GatewayProcess, LlmProcess, llm_config
from tests.support.waiting import eventually


@dataclass(frozen=True)
class Served:
    """`bases` are the addresses that clients are given: the gateway's, and the replica's own."""

    etcd: EtcdCluster
    gateway: GatewayProcess
    replica: LlmProcess
    model: str = MODEL

    @property
    def bases(self) -> dict[str, str]:
        return {"gateway": self.gateway.url, "replica": self.replica.url}


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    etcd = start_etcd(folder / "etcd", options=EtcdOptions(die_with_parent=True))
    replica = gateway = None
    try:
        replica = LlmProcess(folder, llm_config(folder, etcd=etcd.config()))
        gateway = GatewayProcess(folder, etcd.config(), leave_s=0.0, batch_store=str(folder / "batches"))
        replica.wait_state("ready", registered=True)
        url = f"{gateway.url}/v1/models"
        eventually(lambda: httpx.get(url).json()["data"], timeout_s=30, what="the model at the gateway")
        yield Served(etcd, gateway, replica)
        for process in (gateway, replica):
            faults = [line for line in process.log().splitlines() if "internal failure" in line]
            assert not faults, faults[0]
    finally:
        for process in (gateway, replica):
            if process is not None:
                process.end()
        etcd.kill()


@pytest.fixture(params=["gateway", "replica"])
def base(request: pytest.FixtureRequest, served: Served) -> str:
    """The address of each, `http://host:port`."""
    return served.bases[request.param]
