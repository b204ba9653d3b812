"""Drivers, workers and clusters are killed; the job goes on, with each row once, and computes nothing twice."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.local.ray_cluster import RayCluster, start_ray_cluster
from tests.integration.batch_jobs.world import OPTIONS, World, kill_a_worker

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


def test_a_driver_and_a_worker_are_killed(cluster: RayCluster, world: World) -> None:
    first = world.start(cluster, hold_from=400)
    first.reaches(100)
    first.kill()
    before = world.finished()
    assert 100 <= len(before) < world.rows
    second = world.start(cluster, hold_from=700)
    second.reaches(len(before) + 50)
    kill_a_worker(cluster, random.Random(7))
    world.release(2)
    report = second.ends()["report"]
    assert (report["state"], report["rows"], report["computed"]) == ("finished", world.rows, world.rows - len(before))
    world.check_run(before, 2)
    world.check_output()
    assert world.start(cluster).ends()["report"]["computed"] == 0  # done: a further start does nothing
    assert not world.computed(3)


def test_of_two_drivers_the_older_one_stops(cluster: RayCluster, world: World) -> None:
    older = world.start(cluster, hold_from=400)
    older.reaches(50)
    newer = world.start(cluster)
    assert older.ends()["error"] == "Overtaken"
    assert newer.ends()["report"]["state"] == "finished"
    world.check_output()


@pytest.mark.long
def test_a_driver_that_stood_still_changes_nothing_any_more(cluster: RayCluster, world: World) -> None:
    older = world.start(cluster, hold_from=400)
    older.reaches(50)
    os.kill(older.process.pid, signal.SIGSTOP)
    before = world.finished()
    newer = world.start(cluster)
    assert newer.ends()["report"]["state"] == "finished"
    written = world.output.read_bytes()
    os.kill(older.process.pid, signal.SIGCONT)
    assert older.ends()["error"] == "Overtaken"
    assert world.output.read_bytes() == written
    world.check_run(before, 2)
    world.check_output()


def test_a_job_is_stopped_and_goes_on(cluster: RayCluster, world: World) -> None:
    first = world.start(cluster, stop_at=100, hold_from=400).ends()["report"]
    assert first["state"] == "stopped"
    before = world.finished()
    assert len(before) == first["rows"] < world.rows
    assert not world.output.exists()
    second = world.start(cluster).ends()["report"]
    assert (second["state"], second["computed"]) == ("finished", world.rows - len(before))
    world.check_run(before, 2)
    world.check_output()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path, 800, seconds_per_row=0.01)
    yield world
    world.kill_drivers()


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(3))
def test_anything_is_killed_at_any_moment(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    world = World(tmp_path, 6000, seconds_per_row=0.004)
    cluster = start_ray_cluster("killed", tmp_path / "ray-0", options=OPTIONS)
    try:
        for round_ in range(8):
            before = world.finished()
            driver = world.start(cluster)
            driver.reaches(min(world.rows, len(before) + chance.randrange(1, 500)))
            match chance.choice(["driver", "driver", "worker", "cluster"]):
                case "worker":
                    kill_a_worker(cluster, chance)
                    driver.reaches(min(world.rows, driver.rows() + 100))
                case "cluster":
                    cluster.kill()
            driver.kill()
            world.check_run(before, world.runs)
            if not cluster.running():
                cluster = start_ray_cluster("killed", tmp_path / f"ray-{round_ + 1}", options=OPTIONS)
        before = world.finished()
        assert world.start(cluster).ends()["report"]["state"] == "finished"
        world.check_run(before, world.runs)
        world.check_output()
    finally:
        world.kill_drivers()
        cluster.kill()
