from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.contract.models import write_contract_repository
from tests.integration.ingress.kserve_servers import Ingress, Oracle, compose_backends, ingress_binary


@dataclass(frozen=True)
class Pair:
    """The two servers, with the same models and the same options; `traces` are the folders of their traces."""

    ours: Ingress
    theirs: Oracle
    traces: dict[str, Path]


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    if not ingress_binary().exists():
        pytest.fail(f"{ingress_binary()} is missing; run `make setup`, or set MESH_BUILD_DIR")
    folder = tmp_path_factory.mktemp("contract")
    repository = write_contract_repository(folder / "models")
    backends = compose_backends(folder / "backends")
    traces = {name: folder / f"{name}-traces" for name in ("ours", "theirs")}
    for place in traces.values():
        place.mkdir()

    def ours() -> Ingress:
        flags = ["--event-loops=2", "--model-control=explicit", f"--trace-file={traces['ours']}/trace.json"]
        return Ingress(repository, backends, folder / "ours.log", *flags)

    def theirs() -> Oracle:
        flags = ["--model-control-mode=explicit", "--load-model=*", "--log-format=ISO8601", "--exit-timeout-secs=2"]
        return Oracle(
            repository,
            backends,
            folder / "theirs.log",
            *flags,
            f"--trace-config=triton,file={traces['theirs']}/trace.json",
        )

    with ThreadPoolExecutor(2) as pool:  # each takes seconds to load its models
        started = pool.submit(ours), pool.submit(theirs)
    with started[1].result() as oracle, started[0].result() as ingress:
        assert ingress.failed == {}
        yield Pair(ingress, oracle, traces)


@pytest.fixture
def pair(servers: Pair) -> Iterator[Pair]:
    """The servers, which must both be there before a test and after it."""
    yield servers
    for name, server in (("ours", servers.ours), ("theirs", servers.theirs)):
        if not server.alive():
            pytest.exit(f"{name} ended during this test:\n{server.log.read_text()[-2000:]}")
