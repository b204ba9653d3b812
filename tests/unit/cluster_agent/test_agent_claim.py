"""Who holds a mesh's name in a Ray cluster, when agents start, die, hang and meet."""

from __future__ import annotations

from dataclasses import replace

import pytest

from serving.cluster_agent.claim import PATIENCE_S, Claim, Claimant
from serving.errors import AlreadyExists, DataLoss

MINE = Claim("me", "east", "etcd-1:2379")
OTHER = Claim("you", "east", "etcd-2:2379", 7)


def claimant(*dead: str) -> Claimant:
    return Claimant(MINE, "mesh", lambda agent: agent in dead)


def test_a_free_name_is_taken_and_kept() -> None:
    one = claimant()
    first = one.look(None, 0.0)
    assert first is not None
    second = one.look(first, 1.0)
    assert second is not None
    assert second.beat > first.beat
    assert Claim.from_bytes(second.to_bytes()) == second


def test_one_that_died_here_is_not_waited_for() -> None:
    assert claimant("you").look(OTHER, 0.0) is not None


def test_one_that_died_elsewhere_is_waited_for() -> None:
    one = claimant()
    assert one.look(OTHER, 0.0) is None
    assert one.look(OTHER, PATIENCE_S - 0.1) is None
    taken = one.look(OTHER, PATIENCE_S)
    assert taken is not None
    assert taken.agent == "me"


def test_one_that_lives_is_an_error_that_says_what_to_do() -> None:
    one = claimant()
    assert one.look(OTHER, 0.0) is None
    with pytest.raises(AlreadyExists, match=r"etcd-2:2379 \(here: etcd-1:2379\).*set `name`"):
        one.look(replace(OTHER, beat=8), 1.0)


def test_two_agents_of_one_mesh_in_one_ray_cluster() -> None:
    one = claimant()
    found = replace(OTHER, etcd=MINE.etcd, cluster="west")
    assert one.look(found, 0.0) is None
    with pytest.raises(AlreadyExists, match="as cluster 'west': a Ray cluster has one agent"):
        one.look(replace(found, beat=8), 1.0)


def test_of_two_that_meet_exactly_one_stays() -> None:
    """Both see a free name: the last writer keeps it, the first one notices."""
    store: list[Claim | None] = [None]
    agents = {name: Claimant(replace(MINE, agent=name), "mesh", lambda _: False) for name in ("a", "b")}
    writes = {name: one.look(None, 0.0) for name, one in agents.items()}
    store[0] = writes["a"]
    store[0] = writes["b"]
    for now in range(1, 10):
        for name in tuple(agents):
            try:
                wanted = agents[name].look(store[0], float(now))
            except AlreadyExists:
                del agents[name]
                continue
            store[0] = wanted or store[0]
    assert list(agents) == ["b"]


def test_what_is_no_claim() -> None:
    for data in (b"", b"{}", b"[]", b"\xff", b'{"agent": "a", "cluster": "c", "etcd": "e", "beat": "x"}'):
        with pytest.raises(DataLoss):
            Claim.from_bytes(data)
