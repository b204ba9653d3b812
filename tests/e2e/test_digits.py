"""Real input: every held-out digit through the mesh, and the demonstration as a user runs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import uuid
from pathlib import Path
from subprocess import PIPE, STDOUT

import numpy as np
import pytest

from examples.digits.data import load_split
from examples.digits.demo import ask_outside
from serving import MeshClient
from tests.support.mesh import ROOT
from tests.support.waiting import eventually

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]  # Ray alone may take minutes to start beside others
HELD_OUT = 450
WANTED_ACCURACY = 0.97
MARK = "MESH_TEST_MARK"


def test_every_held_out_image(digits: MeshClient) -> None:
    split = load_split()
    assert len(split.held_out_images) == HELD_OUT
    found = []
    for image in split.held_out_images:
        answer = digits.infer("digits", "digits", {"image": image[np.newaxis, :]})["probabilities"]
        assert answer.shape == (1, 10)
        found.append(int(answer.argmax(axis=1)[0]))
    outside = ask_outside(split.held_out_images)
    different = [index for index in range(HELD_OUT) if found[index] != outside[index]]
    assert not different, "images that the model outside the mesh sees otherwise"
    assert float(np.mean(np.array(found) == split.held_out_labels)) >= WANTED_ACCURACY


def test_the_demonstration(tmp_path: Path) -> None:
    """As `make demo` runs it after the setup. Everything that it starts inherits a mark, so nothing can hide."""
    mark = uuid.uuid4().hex
    command = [sys.executable, "-m", "examples.digits.demo", "--dir", str(tmp_path / "mesh")]
    said, seen = "", set[str]()
    with subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, MARK: mark}, stdout=PIPE, stderr=STDOUT, text=True
    ) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            said += line
            seen |= set(marked(mark))  # each time: by the time that a line is read here, what it tells of may be over
    assert demo.returncode == 0, said
    for part in ("etcd", "-m keeper", "-m serving.cluster_agent", "raylet", "ray::MasterActor"):
        assert any(part in command for command in seen), f"{part} did not run under the mark: {seen}"
    accuracy = re.search(r"accuracy on held-out images: ([\d.]+)%", said)
    assert accuracy, said
    assert float(accuracy[1]) >= 100 * WANTED_ACCURACY
    assert said.count(f"{HELD_OUT} requests") == 2, said
    assert "equal to the model outside the mesh: True" in said
    assert len(re.findall(r"latency, .*: +p50 [\d.]+ ms, p90 [\d.]+ ms, p99 [\d.]+ ms", said)) == 2, said
    replicas = re.findall(r"replica (\S+) on cluster (east|west): 127\.0\.0\.1:\d+, pid \d+", said)
    assert len({name for name, _ in replicas}) == 2, said
    assert len({cluster for _, cluster in replicas}) == 1, said
    eventually(lambda: not marked(mark), timeout_s=30, what="the end of all that it started")


def marked(mark: str) -> list[str]:
    """Command lines of the processes that inherited the mark."""
    wanted, found = f"{MARK}={mark}".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue  # ended in between
    return found
