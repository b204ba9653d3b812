"""The node's cache of artifacts: one copy, claimed by living processes, bounded."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from serving._proto.records_pb2 import Artifact
from serving.deployment.artifact_archive import pack
from serving.deployment.artifact_cache import ArtifactCache
from serving.errors import DataLoss, InvalidArgument, NotFound, ResourceExhausted, Unavailable
from serving.process_id import ProcessId

BOOT = ProcessId.of(os.getpid()).boot_id
DEAD = ProcessId(2**22 + 1, 5, BOOT, "")  # above the kernel's limit of process numbers


def me() -> ProcessId:
    found = ProcessId.living(os.getpid())
    assert found is not None
    return found


class Node:
    """A store with artifacts of about 100 kB each, and a cache."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / "store"
        self.root = folder / "cache" / "artifacts"

    def artifact(self, name: str) -> Artifact:
        source = self.folder / "sources" / name
        source.mkdir(parents=True, exist_ok=True)
        (source / "weights").write_bytes(name.encode() * (100_000 // len(name)))
        return pack(source, str(self.store))

    def cache(self, max_bytes: int = 10**9, keep_unused_s: float = 0.0) -> ArtifactCache:
        return ArtifactCache(self.folder / "cache", max_bytes=max_bytes, keep_unused_s=keep_unused_s)

    def get(self, cache: ArtifactCache, artifact: Artifact, user: ProcessId, now: float = 1000.0) -> Path:
        return cache.get(artifact.uri, artifact.digest, artifact.size_bytes, user=user, now=now)

    def cached(self) -> set[str]:
        return {path.name for path in self.root.iterdir() if not path.name.startswith(".")}


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def hex_of(artifact: Artifact) -> str:
    return str(artifact.digest).removeprefix("sha256:")


def test_fetched_once_and_then_found_without_the_store(node: Node) -> None:
    artifact = node.artifact("a")
    first = node.get(node.cache(), artifact, me())
    assert (first / "weights").read_bytes()[:3] == b"aaa"
    Path(artifact.uri.removeprefix("file://")).unlink()
    assert node.get(node.cache(), artifact, me()) == first
    assert list((node.root / ".partial").iterdir()) == []


def test_users_are_kept_while_they_live(node: Node) -> None:
    artifact = node.artifact("a")
    node.get(node.cache(), artifact, DEAD)
    node.get(node.cache(), artifact, me())
    assert [path.name for path in (node.root / hex_of(artifact) / "users").iterdir()] == [str(me())]


def test_what_a_process_gave_up_may_go(node: Node) -> None:
    """As a replica that went on to other models; what it serves stays, and so does what others use."""
    old, served, shared = (node.artifact(name) for name in "abc")
    cache = node.cache()
    for artifact in (old, served, shared):
        node.get(cache, artifact, me())
    node.get(cache, shared, ProcessId.of(os.getppid()))
    cache.release(me(), keep=[hex_of(served)])
    assert node.cache(max_bytes=0).evict(now=time.time() + 1) == [hex_of(old)]
    assert node.cached() == {hex_of(served), hex_of(shared)}


def test_a_process_number_used_again_is_another_process() -> None:
    assert me().alive()
    assert not replace(me(), start_ticks=me().start_ticks + 1).alive()
    assert not replace(me(), boot_id=BOOT[::-1]).alive()
    assert not DEAD.alive()
    assert ProcessId.living(DEAD.pid) is None
    assert ProcessId.parse(f"{me()}-abcd") == me()
    assert ProcessId.parse(f"{me().pid}-{me().start_ticks}") is None


def test_longest_unused_goes_first(node: Node) -> None:
    old, middle, new = (node.artifact(name) for name in "abc")
    cache = node.cache(max_bytes=250_000)
    node.get(cache, middle, DEAD, now=20.0)
    node.get(cache, old, DEAD, now=10.0)
    node.get(cache, new, DEAD, now=30.0)
    assert node.cached() == {hex_of(middle), hex_of(new)}


def test_what_is_used_stays_also_beyond_the_bound(node: Node) -> None:
    used, new = node.artifact("a"), node.artifact("b")
    cache = node.cache(max_bytes=1)
    path = node.get(cache, used, me(), now=10.0)
    node.get(cache, new, DEAD, now=20.0)
    assert node.cached() == {hex_of(used), hex_of(new)}, "one is used, the other was just asked for"
    assert cache.evict(now=30.0) == [hex_of(new)]
    assert (path / "weights").exists()


def test_what_was_used_a_moment_ago_stays(node: Node) -> None:
    artifact = node.artifact("a")
    cache = node.cache(max_bytes=1, keep_unused_s=60.0)
    node.get(cache, artifact, DEAD, now=100.0)
    assert cache.evict(now=159.0) == []
    assert cache.evict(now=161.0) == [hex_of(artifact)]
    assert node.cached() == set()


def test_leftovers_of_dead_processes_are_removed_those_of_living_ones_not(node: Node) -> None:
    node.get(node.cache(), node.artifact("a"), me())
    for owner in (DEAD, me()):
        (node.root / ".partial" / f"{owner}-abcd" / "files").mkdir(parents=True)
    (node.root / ".partial" / "rubbish").mkdir()
    node.get(node.cache(), node.artifact("b"), me())
    assert [path.name for path in (node.root / ".partial").iterdir()] == [f"{me()}-abcd"]


def test_damaged_downloads_leave_nothing(node: Node) -> None:
    artifact = node.artifact("a")
    archive = Path(artifact.uri.removeprefix("file://"))
    good = archive.read_bytes()
    for damaged, reason in (
        (good[:-5000], "bytes, its record says"),
        (good.replace(b"aaaa", b"aaab", 1), "has digest"),
        (good + b"\0", "has more than"),
    ):
        archive.write_bytes(damaged)
        with pytest.raises(DataLoss, match=reason) as caught:
            node.get(node.cache(), artifact, me())
        assert artifact.uri in caught.value.message
        assert node.cached() == set()
        assert list((node.root / ".partial").iterdir()) == []
    archive.write_bytes(good)
    assert node.get(node.cache(), artifact, me()).is_dir()


def test_what_cannot_be_had(node: Node) -> None:
    artifact = node.artifact("a")
    with pytest.raises(NotFound, match=r"gone\.tar does not exist"):
        node.cache().get(f"{node.store}/gone.tar", artifact.digest, 5, user=me(), now=0.0)
    for digest in ("", "md5:00", "sha256:xyz", artifact.digest + "0", "sha256:../../../etc"):
        with pytest.raises(InvalidArgument, match="is not of the form"):
            node.cache().get(artifact.uri, digest, 5, user=me(), now=0.0)


def test_a_disk_that_is_too_small(node: Node) -> None:
    artifact = node.artifact("a")
    with pytest.raises(ResourceExhausted, match="needs 1152921504606846976 bytes"):
        node.cache().get(artifact.uri, artifact.digest, 2**60, user=me(), now=0.0)


def test_a_cache_that_cannot_be_written(node: Node) -> None:
    artifact = node.artifact("a")
    (node.folder / "cache").write_bytes(b"a file")
    with pytest.raises(Unavailable, match=r"cannot be used: .*; check its owner and rights"):
        node.get(node.cache(), artifact, me())
