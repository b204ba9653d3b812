"""Processes of an engine do not outlive the one that started them, however that ends."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest

from serving.llm.vllm_orphans import OrphanWatch
from tests.support.waiting import eventually

SLEEP = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]
OWNER = f"""
import subprocess, sys, time
from serving.llm.vllm_orphans import OrphanWatch
watch = OrphanWatch()
with watch.marking():
    print(subprocess.Popen({SLEEP!r}, start_new_session=True).pid, flush=True)
time.sleep(600)
"""


def test_closing_ends_what_was_started_while_marking_and_nothing_else() -> None:
    watch = OrphanWatch()
    before = dict(os.environ)
    with watch.marking():
        mine = subprocess.Popen(SLEEP)
    assert dict(os.environ) == before
    other = subprocess.Popen(SLEEP)
    try:
        watch.close()
        watch.close()
        assert mine.wait(30) == -9
        assert other.poll() is None
    finally:
        for process in (mine, other):
            process.kill()
            process.wait()


def test_processes_end_with_the_owner_that_was_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        child = psutil.Process(int(owner.stdout.readline()))
        owner.kill()
    eventually(lambda: gone(child), timeout_s=60, what="the child of the killed process ends")


def gone(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


@pytest.fixture(autouse=True)
def mesh_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
