"""Functions of users that say how many replicas are wanted: asked, waited for, and survived."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from textwrap import dedent

import psutil
import pytest
from test_scaling import NET, World, order, rows

from serving._proto import records_pb2 as pb
from serving.deployment.artifact_archive import pack
from serving.master import custom_policy
from serving.master.custom_policy import Answer, CustomPolicies, answer_of
from serving.master.scaling import Scaling
from serving.sdk.scaling import ScalingLoad

CODE = """
import os, sys, time

def by_requests(load):
    print("what users print is no answer")
    return load.ongoing / load.args["per_replica"]

def raises(load):
    raise ValueError("no such load")

def hangs(load):
    time.sleep(60)

def dies(load):
    os._exit(3)

def says_words(load):
    return "many"

def negative(load):
    return -1

NUMBER = 3
"""
LOAD = ScalingLoad(now=1.0, size=2, ready=2, least=1, most=9, ongoing=12.0, args={"per_replica": 3})


@pytest.fixture
def function(tmp_path: Path) -> Callable[[str], pb.ScalingFunction]:
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "sizes.py").write_text(dedent(CODE))
    packed = pack(folder, (tmp_path / "artifacts").as_uri())

    def made(name: str) -> pb.ScalingFunction:
        return pb.ScalingFunction(entry=f"sizes:{name}", code=packed)

    return made


@asynccontextmanager
async def policies(folder: Path) -> AsyncIterator[CustomPolicies]:
    made = CustomPolicies(str(folder / "cache"))
    try:
        yield made
    finally:
        await made.close()


async def answer(asked: CustomPolicies, record: pb.ScalingFunction) -> Answer:
    deadline = time.monotonic() + 60
    while (found := asked.ask(NET, record, LOAD)) is None:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    return found


async def test_a_function_is_asked(tmp_path: Path, function: Callable[[str], pb.ScalingFunction]) -> None:
    async with policies(tmp_path) as asked:
        assert asked.ask(NET, function("by_requests"), LOAD) is None, "nobody waits for it"
        assert (await answer(asked, function("by_requests"))).size == 4.0


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("raises", "ValueError: no such load"),
        ("dies", "the process of sizes:dies has ended"),
        ("says_words", "ValueError: could not convert"),
        ("negative", "answered -1.0, which is no number of replicas"),
        ("absent", "sizes:absent cannot be loaded: AttributeError"),
        ("NUMBER", "sizes:NUMBER cannot be loaded: TypeError: NUMBER is not a function"),
    ],
)
async def test_what_goes_wrong_is_said(
    tmp_path: Path, function: Callable[[str], pb.ScalingFunction], name: str, says: str
) -> None:
    async with policies(tmp_path) as asked:
        assert says in (await answer(asked, function(name))).problem


async def test_one_that_hangs_is_ended(
    tmp_path: Path, function: Callable[[str], pb.ScalingFunction], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(custom_policy, "START_S", 1.0)
    async with policies(tmp_path) as asked:
        assert "has not answered within 1 s" in (await answer(asked, function("hangs"))).problem
    commands = [" ".join(child.cmdline()) for child in psutil.Process().children()]
    assert not [command for command in commands if "policy_process" in command], "none is left"


async def test_code_that_cannot_be_fetched(tmp_path: Path) -> None:
    lost = pb.ScalingFunction(entry="sizes:size")
    lost.code.uri, lost.code.digest = (tmp_path / "lost.tar").as_uri(), "sha256:" + "0" * 64
    async with policies(tmp_path) as asked:
        assert (await answer(asked, lost)).problem


def test_answers() -> None:
    assert answer_of(b'{"size": 2.5}\n', 1.0) == Answer(1.0, 2.5)
    for line in (b"words\n", b"[]\n", b"{}\n", b'{"size": "x"}\n', b'{"size": NaN}\n', b'{"size": Infinity}\n'):
        assert "no number of replicas" in answer_of(line, 1.0).problem


class Fixed:
    """Answers what the test says; keeps what was asked."""

    def __init__(self) -> None:
        self.answer: Answer | None = None
        self.loads: list[ScalingLoad] = []

    def ask(self, deployment: str, record: pb.ScalingFunction, load: ScalingLoad) -> Answer | None:
        assert (deployment, record.entry) == (NET, "sizes:size")
        self.loads.append(load)
        return self.answer

    def keep(self, deployments: Mapping[str, object]) -> None:
        self.kept = list(deployments)


def test_its_wish_counts_beside_targets_and_within_bounds() -> None:
    wanted = order(low=1, high=8)
    scaling = wanted.stored.spec.deployments[0].autoscaling
    scaling.target_ongoing = 0
    scaling.policy.entry, scaling.policy.args = "sizes:size", json.dumps({"per_replica": 3})
    world, fixed = World(wanted), Fixed()
    world.scaling = Scaling(fixed)
    assert world.run(rows(3), seconds=20, in_flight=5) == 3, "without an answer the number stays"
    assert (fixed.kept, fixed.loads[-1].ongoing, fixed.loads[-1].args) == ([NET], 15.0, {"per_replica": 3})
    fixed.answer = Answer(0.0, 4.2)
    assert world.run(rows(3), seconds=5, in_flight=5) == 5
    fixed.answer = Answer(0.0, problem="ValueError: no such load")
    assert world.run(rows(5), seconds=30, in_flight=0) == 5, "what fails changes nothing"
    fixed.answer = Answer(0.0, 1e9)
    assert world.run(rows(5), seconds=5, in_flight=0) == 8
    fixed.answer = Answer(0.0, 0.0)
    assert world.run(rows(8), seconds=20, in_flight=0) == 1
    del wanted.stored.spec.deployments[0]
    world.look([])
    assert fixed.kept == []
