"""What a replica reads from its configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving._proto import records_pb2 as pb
from serving.embedding import settings
from serving.errors import InvalidArgument


def config(**fields: object) -> pb.ReplicaConfig:
    return pb.ReplicaConfig(id="e-r1-0", deployment="e", embedding=pb.EmbeddingDeployment(**fields))


def test_defaults() -> None:
    plain = config()
    options = settings.embedder_options(plain, None, usable_cpus=3)
    assert (options.folder, options.threads, options.int8, options.max_tokens) == (None, 3, True, None)
    assert options.max_batch_tokens == 512
    limits = settings.batch_limits(plain)
    assert (limits.max_inputs, limits.max_tokens, limits.max_waiting_tokens) == (64, 512, 262_144)
    assert (settings.max_requests(plain), settings.model_name(plain), settings.cuts(plain)) == (1024, "e", False)


def test_what_is_said_counts() -> None:
    said = config(
        model="m",
        precision="f32",
        max_tokens=9,
        too_long="cut",
        threads=2,
        max_batch_inputs=3,
        max_batch_tokens=5,
        max_requests=7,
        max_waiting_tokens=11,
    )
    options = settings.embedder_options(said, Path("bert"), usable_cpus=3)
    assert (options.folder, options.threads, options.int8, options.max_tokens) == (Path("bert"), 2, False, 9)
    limits = settings.batch_limits(said)
    assert (limits.max_inputs, limits.max_tokens, limits.max_waiting_tokens) == (3, 5, 11)
    assert (settings.max_requests(said), settings.model_name(said), settings.cuts(said)) == (7, "m", True)


def test_words_that_are_not_known() -> None:
    with pytest.raises(InvalidArgument, match=r"embedding.precision: `int4` is not known \(allowed: int8, f32\)"):
        settings.embedder_options(config(precision="int4"), None, 1)
    with pytest.raises(InvalidArgument, match=r"embedding.too_long: `split` is not known \(allowed: refuse, cut\)"):
        settings.cuts(config(too_long="split"))
