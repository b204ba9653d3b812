"""Specs that cannot work: the status says exactly why, and a revision that served goes on serving."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from serving import MeshClient, load_spec
from serving.sdk import AppStatus
from tests.support.mesh import DIGITS, application
from tests.support.waiting import eventually

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]
MODEL = Path("digits") / "1" / "model.onnx"
CONFIG = Path("digits") / "config.pbtxt"


@pytest.fixture
def name(client: MeshClient) -> Iterator[str]:
    """A fresh name; the application is deleted afterwards."""
    chosen = f"bad-{uuid.uuid4().hex[:8]}"
    yield chosen
    if any(status.name == chosen for status in client.list()):
        client.delete(chosen, wait=True)


def truncate_model(repository: Path) -> None:
    data = (repository / MODEL).read_bytes()
    (repository / MODEL).write_bytes(data[: len(data) // 2])


def replace_in_config(old: str, new: str) -> Callable[[Path], None]:
    def change(repository: Path) -> None:
        text = (repository / CONFIG).read_text()
        assert old in text
        (repository / CONFIG).write_text(text.replace(old, new, 1))

    return change


BROKEN: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "truncated model": (truncate_model, ("digits", "model.onnx")),
    "missing file": (lambda repository: (repository / MODEL).unlink(), ("digits", "model.onnx")),
    "wrong dims": (replace_in_config("dims: [ 64 ]", "dims: [ 1, 8, 8 ]"), ("digits", "image", "dims")),
    "wrong dtype": (replace_in_config("TYPE_FP32", "TYPE_INT64"), ("digits", "image", "INT64")),
    "wrong input name": (replace_in_config('"image"', '"picture"'), ("digits", "picture")),
    "unknown backend": (replace_in_config('"openvino"', '"nosuch"'), ("digits", "nosuch")),
}


def why(status: AppStatus) -> str:
    """Everything a person is told."""
    parts = [status.message, *(condition.message for condition in status.conditions)]
    for deployment in status.deployments:
        parts += [deployment.reason, *(replica.reason for replica in deployment.replicas)]
    return "\n".join(parts)


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_model_is_named(client: MeshClient, repository: Path, name: str, kind: str) -> None:
    breaks, words = BROKEN[kind]
    breaks(repository)
    client.deploy(application(name, repository))

    def failed() -> AppStatus | None:
        status = client.status(name)
        return status if status.phase == "FAILED" else None

    status = eventually(failed, timeout_s=120, what="phase FAILED")
    missing = [word for word in words if word not in status.message]
    assert not missing, f"{missing} not in the message:\n{why(status)}"
    assert client.endpoints(name) == ()


def test_too_big_is_pending_with_a_reason(client: MeshClient, repository: Path, name: str) -> None:
    client.deploy(application(name, repository, cpus=1000))
    status = eventually(lambda: _with_reasons(client, name), timeout_s=90, what="reasons")
    assert status.phase == "PENDING"
    assert [reason.cluster for reason in status.reasons] == ["east"]
    assert "1000" in status.reasons[0].reason
    assert "CPU" in status.reasons[0].reason


def _with_reasons(client: MeshClient, name: str) -> AppStatus | None:
    status = client.status(name)
    return status if status.reasons else None


def test_bad_revision_leaves_the_old_one_serving(client: MeshClient, repository: Path, name: str) -> None:
    client.deploy(application(name, repository), wait=True, timeout_s=150)
    image = np.load(DIGITS.parent / "seven.npy")
    truncate_model(repository)
    client.deploy(application(name, repository))

    def degraded() -> AppStatus | None:
        now = client.status(name)
        return now if now.phase == "DEGRADED" else None

    status = eventually(degraded, timeout_s=150, what="phase DEGRADED")
    assert (status.revision, status.serving_revision) == (2, 1)
    assert "model.onnx" in why(status)
    answer = client.infer(name, "digits", {"image": image})
    assert answer["probabilities"].argmax() == 7
    client.rollback(name, 1)
    back = eventually(lambda: client.status(name).ready, timeout_s=150, what="READY after the rollback")
    assert back


def test_good_revision_takes_over_without_a_failed_request(client: MeshClient, repository: Path, name: str) -> None:
    client.deploy(application(name, repository), wait=True, timeout_s=150)
    image = np.load(DIGITS.parent / "seven.npy")
    (repository / "notes.txt").write_text("another digest\n")
    shutil.copytree(repository / "digits" / "1", repository / "digits" / "2")
    client.deploy(application(name, repository))

    answers: list[int] = []

    def asked_until_updated() -> bool:
        for _ in range(20):
            answers.append(int(client.infer(name, "digits", {"image": image})["probabilities"].argmax()))
        status = client.status(name)
        return status.ready and status.serving_revision == 2

    eventually(asked_until_updated, timeout_s=150, what="revision 2 serving")
    assert set(answers) == {7}


def test_unchanged_spec_makes_no_revision(digits: MeshClient) -> None:
    again = digits.deploy(load_spec(DIGITS))
    assert not again.changed
