from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration.ingress.kserve_models import write_repository
from tests.integration.ingress.kserve_servers import Ingress, Oracle, compose_backends, ingress_binary

StartIngress = Callable[..., Ingress]


@pytest.fixture(scope="session")
def backends(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not ingress_binary().exists():
        pytest.fail(f"{ingress_binary()} is missing; run `make setup`, or set MESH_BUILD_DIR")
    return compose_backends(tmp_path_factory.mktemp("backends") / "backends")


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_repository(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def ingress(repository: Path, backends: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ingress]:
    """One ingress for all tests that change nothing about it; at the end it must stop with 0."""
    log = tmp_path_factory.mktemp("ingress") / "log"
    with Ingress(repository, backends, log, "--event-loops=2") as running:
        yield running


@pytest.fixture(scope="module")
def oracle_of_file(repository: Path, backends: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Oracle]:
    """One of its own for each file: broken streams end `tritonserver` 2.51 now and then."""
    with Oracle(repository, backends, tmp_path_factory.mktemp("oracle") / "log") as running:
        yield running


@pytest.fixture
def oracle(oracle_of_file: Oracle) -> Oracle:
    """Started again where the test before ended it."""
    oracle_of_file.revive()
    return oracle_of_file


@pytest.fixture
def gate(repository: Path) -> Iterator[Path]:
    """Shut: what the model `gated` is asked runs, or waits for its turn, until the test touches it."""
    path = repository / "gated" / "gate"
    path.unlink()
    yield path
    path.touch()


@pytest.fixture
def start_ingress(repository: Path, backends: Path, tmp_path: Path) -> Iterator[StartIngress]:
    """Starts further ones, with flags."""
    with ExitStack() as stack:

        def start(*flags: str, repository: Path = repository) -> Ingress:
            return stack.enter_context(Ingress(repository, backends, tmp_path / "log", *flags))

        yield start
