"""Jobs from file to file on a real cluster: all formats, folders that grow, disks that are full."""

from __future__ import annotations

import csv
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from serving.local.ray_cluster import RayCluster
from tests.integration.batch_jobs.world import ENDS_WITHIN_S, World
from tests.support.batch_parts import write_jsonl
from tests.support.waiting import eventually

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


def test_a_csv_becomes_parquet(cluster: RayCluster, tmp_path: Path) -> None:
    world = World(tmp_path, 0)
    with (tmp_path / "in.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["n", "text"])
        writer.writerows([n, f'"{n}",\n'] for n in range(2000))
    driver = world.start(
        cluster,
        kind="csv",
        sink_kind="parquet",
        source=str(tmp_path / "in.csv"),
        output=str(tmp_path / "out"),
        identifier="n",
    )
    assert driver.ends()["report"]["rows"] == 2000
    table = ds.dataset(tmp_path / "out", format="parquet").to_table().sort_by("doubled")
    assert table.column("doubled").to_pylist() == [2 * n for n in range(2000)]
    assert table.column("text").to_pylist() == [f'"{n}",\n' for n in range(2000)]


@pytest.mark.long
def test_parquet_becomes_json_lines(cluster: RayCluster, tmp_path: Path) -> None:
    world = World(tmp_path, 0)
    table = pa.table({"n": range(2000), "text": [f"row {n}" for n in range(2000)]})
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=300)
    world.rows = 2000
    driver = world.start(cluster, kind="parquet", sink_kind="jsonl", source=str(tmp_path / "in.parquet"))
    assert driver.ends()["report"]["rows"] == 2000
    world.check_output()


def test_a_folder_grows_and_ends(cluster: RayCluster, tmp_path: Path) -> None:
    world = World(tmp_path, 0)
    folder = tmp_path / "arriving"
    folder.mkdir()
    options = {"grows": True, "source": str(folder), "output": str(tmp_path / "out-{batch}.jsonl")}
    first = world.start(cluster, **options)
    arrives(folder / "a.jsonl", 50)
    eventually(
        lambda: any("batch" in line for line in told(first.said())), timeout_s=ENDS_WITHIN_S, what="a batch is done"
    )
    first.kill()
    for name in "bcd":
        arrives(folder / f"{name}.jsonl", 60)
    (folder / "_END").touch()
    second = world.start(cluster, **options)
    assert second.ends()["report"]["rows"] == 50 + 3 * 60
    keys = [line["batch"] for line in told(first.said()) + told(second.said())]
    assert len(set(keys)) == 3
    rows = [json.loads(line)["doubled"] for path in tmp_path.glob("out-*.jsonl") for line in path.open()]
    assert sorted(rows) == sorted([2 * n for n in range(50)] + 3 * [2 * n for n in range(60)])


@pytest.mark.parametrize(
    ("fault", "error", "says"),
    [
        ("loses the identifier", "InvalidArgument", "each step must keep it"),
        ("fails", "Internal", "no work for 3 columns"),
        ("", "InvalidArgument", "byte 0: this line is no JSON"),
    ],
)
def test_what_fails_is_said(cluster: RayCluster, tmp_path: Path, fault: str, error: str, says: str) -> None:
    world = World(tmp_path, 100)
    if not fault:
        world.source.write_text("{\n")
    said = world.start(cluster, **({"fault": fault} if fault else {})).ends()
    assert said["error"] == error
    assert says in said["message"]
    assert not world.output.exists()


def arrives(path: Path, rows: int) -> None:
    """As whole files do."""
    making = path.parent.parent / path.name
    write_jsonl(making, [{"n": n} for n in range(rows)])
    making.rename(path)


def told(said: list[dict[str, object]]) -> list[dict[str, object]]:
    return [line for line in said if "output" in line]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", disk], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("file systems cannot be mounted here")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_a_job_waits_for_room_on_a_full_disk(cluster: RayCluster, tmp_path: Path, small_disk: Path) -> None:
    world = World(tmp_path, 800, seconds_per_row=0.005)
    world.job = small_disk / "job"
    driver = world.start(cluster, hold_from=400)
    try:
        driver.reaches(50)
        ballast = small_disk / "ballast"
        with ballast.open("wb", buffering=0) as stream:
            fill(stream.fileno())
        eventually(
            lambda: any(line.get("state") == "disk_full" for line in driver.said()),
            timeout_s=ENDS_WITHIN_S,
            what="the job says that the disk is full",
        )
        ballast.unlink()
        world.release(1)
        assert driver.ends()["report"]["rows"] == world.rows
        world.check_output()
    finally:
        driver.kill()


def fill(descriptor: int) -> None:
    try:
        while True:
            os.write(descriptor, b"x" * 4096)
    except OSError:
        return
