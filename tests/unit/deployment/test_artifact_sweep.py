"""Which archives go: those that nothing names, never young ones, and none where the store cannot know."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from serving._proto import records_pb2 as pb
from serving.deployment.artifact_archive import REFRESH_S, pack
from serving.deployment.artifact_sweep import MIN_AGE_S, old_archives, remove, unnamed
from serving.errors import FailedPrecondition
from serving.store import keys
from serving.store.keys import AppKey
from serving.store.records import encode

KEY = AppKey("default", "digits")


def put(folder: Path, name: str, age_s: float) -> Path:
    path = folder / name
    path.write_text("x" * 10)
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def stored(letter: str, revision: int = 1) -> pb.StoredSpec:
    artifact = pb.Artifact(uri=f"file:///{letter}.tar", digest="sha256:" + letter * 64)
    deployment = pb.DeploymentSpec(name="d", triton=pb.TritonDeployment(repository=artifact))
    return pb.StoredSpec(spec=pb.ApplicationSpec(name="digits", deployments=[deployment]), revision=revision)


def names(store: str | Path, values: dict[str, bytes], *, empty_is_right: bool = False) -> list[str]:
    old = old_archives(str(store), time.time(), MIN_AGE_S)
    return sorted(one.url.rpartition("/")[2] for one in unnamed(old, values, empty_is_right=empty_is_right))


def test_what_a_revision_or_a_placement_names_stays(tmp_path: Path) -> None:
    for letter in "abcd":
        put(tmp_path, letter * 64 + ".tar", MIN_AGE_S + 60)
    put(tmp_path, "e" * 64 + ".tar", MIN_AGE_S - 60)
    put(tmp_path, "notes.txt", 10 * MIN_AGE_S)
    partial = f".{'a' * 64}.tar.0123abcd.part"
    put(tmp_path, partial, MIN_AGE_S + 60)
    put(tmp_path, partial.replace("0123", "4567"), 60)
    values = {
        keys.spec(KEY): encode(stored("a")),
        keys.revision(KEY, 1): encode(stored("b")),
        keys.placement("east", AppKey("default", "leaving")): encode(pb.Placement(stored=stored("c"))),
    }
    assert names(tmp_path, values) == [partial, "d" * 64 + ".tar"]
    remove(unnamed(old_archives(str(tmp_path), time.time(), MIN_AGE_S), values, empty_is_right=False), lambda _: None)
    assert names(tmp_path, values) == []
    assert len(list(tmp_path.iterdir())) == 6


def test_an_empty_store_is_not_read_as_remove_everything(tmp_path: Path) -> None:
    put(tmp_path, "a" * 64 + ".tar", MIN_AGE_S + 60)
    with pytest.raises(FailedPrecondition, match="holds no application"):
        names(tmp_path, {keys.cluster("east"): b"{}"})
    assert names(tmp_path, {}, empty_is_right=True) == ["a" * 64 + ".tar"]


@pytest.mark.parametrize("serving", [True, False])
def test_nothing_goes_while_a_revision_runs_that_is_not_stored(serving: bool, tmp_path: Path) -> None:
    put(tmp_path, "a" * 64 + ".tar", MIN_AGE_S + 60)
    status = pb.ApplicationStatus(serving_revision=3 if serving else 0)
    if not serving:
        status.deployments.add(name="d").replicas.add(id="d-r3-0", revision=3)
    values = {keys.spec(KEY): encode(stored("b", 4)), keys.status(KEY): encode(status)}
    with pytest.raises(FailedPrecondition, match="runs revision 3, which is not stored any more"):
        names(tmp_path, values)
    assert names(tmp_path, {**values, keys.revision(KEY, 3): encode(stored("b", 3))}) == ["a" * 64 + ".tar"]


def test_other_stores_than_folders() -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    store = "memory://sweep"
    assert old_archives(store, time.time(), MIN_AGE_S) == {}
    memory.pipe_file(f"/sweep/{'a' * 64}.tar", b"xyz")
    assert old_archives(store, time.time(), MIN_AGE_S) == {}
    ((one,),) = old_archives(store, time.time() + MIN_AGE_S + 60, MIN_AGE_S).values()
    assert (one.url, one.size_bytes) == (f"memory://sweep/{'a' * 64}.tar", 3)
    remove([one, one], lambda _: None)
    assert old_archives(store, time.time() + MIN_AGE_S + 60, MIN_AGE_S) == {}


def test_packing_again_makes_an_old_archive_young(tmp_path: Path) -> None:
    folder, store = tmp_path / "models", tmp_path / "store"
    folder.mkdir()
    (folder / "model").write_text("weights")
    made = pack(folder, str(store))
    (archive,) = store.iterdir()
    for age_s, written in ((REFRESH_S - 60, False), (REFRESH_S + 60, True)):
        before_s = time.time() - age_s
        os.utime(archive, (before_s, before_s))
        assert pack(folder, str(store)) == made
        assert (archive.stat().st_mtime > before_s + 1) == written
