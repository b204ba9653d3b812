"""What a semantic cache reads from its configuration, and says of itself in discovery."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from serving._proto import records_pb2 as pb
from serving.cache import settings
from serving.cache.folder import FolderLock
from serving.cache.semantic_cache import CacheOptions
from serving.cache.store import Limits
from serving.errors import FailedPrecondition, InvalidArgument
from serving.llm import settings as llm


def config(cache_dir: str = "/cache", generation: int = 3, **fields: object) -> pb.ReplicaConfig:
    cache = pb.SemanticCacheDeployment(**fields)  # type: ignore[arg-type]
    names = {"id": "c-r1-0", "namespace": "ns", "application": "app", "deployment": "c"}
    return pb.ReplicaConfig(**names, cache_dir=cache_dir, generation=generation, semantic_cache=cache)


def test_defaults_are_the_cores() -> None:
    assert settings.options(config()) == CacheOptions()
    assert settings.limits(config()) == Limits()
    assert settings.folder(config()) == Path("/cache/semantic-cache/ns/app/c")


def test_what_is_said_is_taken() -> None:
    said = config(threshold=1.0, error_bound=0.1, max_temperature=0.0, per_user=True, without_guards=["content"],
                  ttl_s=5, max_entries=6, max_bytes=7, max_answer_bytes=8, evict="lfu", path="/vol")  # fmt: skip
    options = settings.options(said)
    assert (options.threshold, options.error_bound, options.without_guards) == (1.0, 0.1, frozenset({"content"}))
    assert (options.rules.max_temperature, options.rules.per_user) == (0.0, True)
    assert settings.limits(said) == Limits(6, 7, 8, 5, "lfu")
    assert settings.folder(said) == Path("/vol/ns/app/c")
    with pytest.raises(InvalidArgument, match="neither semantic_cache"):
        settings.folder(config(cache_dir=""))


def test_another_placement_keeps_nothing_of_an_earlier_one() -> None:
    assert settings.kept_for(config(), "m") != settings.kept_for(config(generation=4), "m")
    assert settings.kept_for(config(), "m") != settings.kept_for(config(), "n")


def test_its_record_names_no_model() -> None:
    record = settings.endpoint(config(before=["chat"]), pb.ReplicaReport(address="h:1", revision=2), "node")
    assert (record.protocol, list(record.models), list(record.before)) == ("semantic-cache-http", [], ["chat"])


def test_replicas_that_answer_the_same_say_so() -> None:
    def content(revision: int = 1, digest: str = "sha256:a", **fields: object) -> str:
        made = pb.LlmDeployment(weights=pb.Artifact(uri="u", digest=digest), **fields)  # type: ignore[arg-type]
        return llm.content(pb.ReplicaConfig(revision=revision, llm=made))

    assert content() == content(revision=2) == content(max_requests=5) == content(engine=llm.DEFAULT_ENGINE)
    assert len({content(), content(digest="sha256:b"), content(options='{"precision":"f16"}')}) == 3


def test_a_folder_belongs_to_one_process(tmp_path: Path) -> None:
    """Locks of one process are apart, too, as they are of files that were opened apart."""
    first, second = FolderLock(tmp_path / "a"), FolderLock(tmp_path / "a")
    first.take(0)
    with pytest.raises(FailedPrecondition, match="another process keeps its answers in"):
        second.take(0.05)
    waiting = threading.Thread(target=second.take, args=(30,))
    waiting.start()
    first.release()
    waiting.join(30)
    assert not waiting.is_alive()
    with pytest.raises(FailedPrecondition):
        FolderLock(tmp_path / "a").take(0)
    second.release()
    second.release()
    (tmp_path / "file").touch()
    with pytest.raises(FailedPrecondition, match="cannot be kept"):
        FolderLock(tmp_path / "file" / "b").take(0)
