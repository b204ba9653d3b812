"""Ray clusters that start at the same time on a machine that is too slow for all of them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from serving.errors import FailedPrecondition
from serving.local import ray_cluster as module


def test_who_was_too_slow_starts_again_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(2, timeout=60)
    alone: dict[str, list[bool]] = {"east": [], "west": []}

    def start_once(name: str, *_: object) -> str:
        alone[name].append(module._ALONE.locked())
        if len(alone[name]) == 1:
            together.wait()
            raise FailedPrecondition(f"Ray cluster {name} timed out during startup")
        return name

    monkeypatch.setattr(module, "_start_once", start_once)
    with ThreadPoolExecutor(2) as pool:
        started = list(pool.map(lambda name: module.start_ray_cluster(name, tmp_path / name), alone))
    assert started == ["east", "west"]
    assert alone == {"east": [False, True], "west": [False, True]}


def test_what_cannot_work_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def start_once(name: str, *_: object) -> str:
        tried.append(name)
        raise FailedPrecondition("no room for objects")

    monkeypatch.setattr(module, "_start_once", start_once)
    with pytest.raises(FailedPrecondition, match="no room"):
        module.start_ray_cluster("east", tmp_path / "east")
    assert tried == ["east"]


def test_no_two_parts_of_a_cluster_get_the_same_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray refuses to start then. Ports that are asked for apart are the same ones now and then."""
    asked: list[int] = []

    def ports(count: int) -> list[int]:
        asked.append(count)
        return list(range(20_000, 20_000 + count))

    def start(_: str, command: list[str], *, env: dict[str, str], **_more: object) -> None:
        given = [word.rpartition("=")[2] for word in command if "port=" in word and not word.endswith("=0")]
        given.append(env["DASHBOARD_METRIC_PORT"])
        assert sorted(given) == [str(port) for port in range(20_000, 20_000 + asked[0])]
        raise FailedPrecondition("seen")

    monkeypatch.setattr(module, "free_ports", ports)
    monkeypatch.setattr(module.Process, "start", start)
    with pytest.raises(FailedPrecondition, match="seen"):
        module.start_ray_cluster("east", tmp_path / "east")
    assert len(asked) == 1
