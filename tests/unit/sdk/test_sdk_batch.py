"""Runners of batches in a spec: what is said of them."""

from __future__ import annotations

import pytest

from serving import Application, BatchDeployment
from serving.errors import SpecError
from serving.sdk import parse_spec

FULL = """
name: app
deployments:
  - name: batches
    batch: {concurrency: 3, namespaces: [shop, lab], workers: 2, max_attempts: 5}
"""


def test_python_says_what_the_record_holds() -> None:
    made = BatchDeployment("batches", concurrency=3, namespaces=["shop", "lab"], workers=2, max_attempts=5)
    batch = Application("app", [made]).unchecked_spec().deployments[0].batch
    assert (batch.concurrency, list(batch.namespaces), batch.workers, batch.max_attempts) == (3, ["shop", "lab"], 2, 5)


def test_yaml_says_the_same() -> None:
    made = BatchDeployment("batches", concurrency=3, namespaces=["shop", "lab"], workers=2, max_attempts=5)
    assert parse_spec(FULL).to_spec() == Application("app", [made]).to_spec()


@pytest.mark.parametrize(
    ("made", "field"),
    [
        (BatchDeployment("batches", concurrency=101), "concurrency"),
        (BatchDeployment("batches", workers=-1), "workers"),
        (BatchDeployment("batches", max_attempts=1001), "max_attempts"),
        (BatchDeployment("batches", namespaces=["Shop"]), "namespaces[0]"),
        (BatchDeployment("batches", namespaces=["shop", "shop"]), "namespaces"),
    ],
)
def test_what_is_wrong_is_named(made: BatchDeployment, field: str) -> None:
    with pytest.raises(SpecError) as raised:
        Application("app", [made]).to_spec()
    assert f"deployments[0].batch.{field}" in str(raised.value)
