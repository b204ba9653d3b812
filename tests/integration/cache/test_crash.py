"""Killed at any moment the store opens again, holds every acknowledged entry whole, and finds them by vector."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.integration.cache.test_store import found, opened, scope, vector

WRITER = """
import sys
from pathlib import Path
from tests.integration.cache.test_store import opened, scope, vector
store = opened(Path(sys.argv[1]), max_entries=100_000)
number = int(sys.argv[2])
print("ready", flush=True)
while True:
    store.put(scope(f"q{number}"), b"answer %d " % number * 200, vector(number), tags=["a"])
    if number % 7 == 0:
        store.flush()
    if number % 5 == 4:
        print("removing", number - 2, flush=True)
        store.remove(key=scope(f"q{number - 2}").key)
        print("gone", number - 2, flush=True)
    print("put", number, flush=True)
    number += 1
"""
ROUNDS = 12


@pytest.mark.timeout(900)
def test_nothing_acknowledged_is_lost_or_torn(tmp_path: Path) -> None:
    chance = random.Random(11)
    put: set[int] = set()
    gone: set[int] = set()
    perhaps: set[int] = set()
    following = 0
    for _ in range(ROUNDS):
        said = _killed_writer(tmp_path, following, chance.uniform(0.0, 0.25))
        put |= {int(number) for word, number in said if word == "put"}
        gone |= {int(number) for word, number in said if word == "gone"}
        perhaps |= {int(number) for word, number in said if word == "removing"}
        following = max(put, default=-1) + 2  # the one after the last may be there, or not
        store = opened(tmp_path)
        there = set(found(store, following))
        assert put - perhaps <= there
        assert not gone & there
        for number in there:
            entry = store.find(scope(f"q{number}").key)
            assert entry is not None
            assert entry.answer == b"answer %d " % number * 200
            near = store.nearest(scope("x").digest, vector(number), 1)
            assert near[0][1] == entry.id
        assert store.count == len(there)
        store.close()
    assert len(put) > ROUNDS


def _killed_writer(folder: Path, first: int, after_s: float) -> list[tuple[str, str]]:
    """What the writer said before it was killed, in whole lines."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), str(first)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).resolve().parents[3],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    time.sleep(after_s)  # the moment of the kill is what is tried
    process.send_signal(signal.SIGKILL)
    text = process.stdout.read().decode()
    process.wait()
    lines = [line.split(" ") for line in text.split("\n")[:-1]]
    return [(line[0], line[1]) for line in lines]
