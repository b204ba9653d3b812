from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract.models import write_contract_repository
from tests.contract.pairs import Pair, start_pair


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("contract")
    with start_pair(folder, write_contract_repository(folder / "models")) as pair:
        yield pair


@pytest.fixture
def pair(servers: Pair) -> Iterator[Pair]:
    """The servers. Ours must be there after each test; `tritonserver` is started again where it had ended."""
    yield servers
    servers.must_live()
