"""`examples/batch` through `/v1/batches`, with a runner that is killed on the way."""

from __future__ import annotations

import re
from contextlib import ExitStack

import pytest

from tests.support.batch_example import run_example, tell_where
from tests.support.batch_world import BatchWorld

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


def ordered(world: BatchWorld, *words: str, timeout_s: float) -> str:
    with ExitStack() as stack:
        world.runner("runner-of-example", stack)
        mesh = tell_where(world.folder, world.etcd, world.url)
        return run_example("ordered", *words, env={"MESH_DIR": str(mesh)}, timeout_s=timeout_s)


def test_a_killed_runner_gives_each_row_its_answer(world: BatchWorld) -> None:
    said = ordered(world, "--rows", "3000", "--kills", "1", timeout_s=500)
    assert (
        len(re.findall(r"^the runner \(pid \d+\) was killed when [\d,]+ rows of \w+ were done$", said, re.MULTILINE))
        == 1
    )
    assert "3,000 rows, each once, each with its right answer" in said


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_hundred_thousand_rows_in_two_batches(world: BatchWorld) -> None:
    said = ordered(world, "--full", timeout_s=3500)
    assert said.count(" was killed when ") == 2
    assert "100,000 rows, each once, each with its right answer" in said
