"""Packing of clusters as large and as full as they occur; what must hold of small ones is in the placement's tests."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keeper_builders import neighbour, simple, spec

from keeper.packing import Node, pack
from keeper.placement import Choice, NoFit, decide
from keeper.resources import CPU, GPU, Demand, Need

NODES = 200
DEMANDS = 60


@pytest.mark.parametrize(("nodes", "cpus", "applications"), [(30, 2, 60), (50, 1, 50), (100, 8, 20)])
def test_a_full_cluster_takes_no_further_application(nodes: int, cpus: int, applications: int) -> None:
    each = nodes * cpus // applications
    placed = [neighbour("east", spec(f"app-{index}", replicas=each)) for index in range(applications)]
    state = simple("east", *[float(cpus)] * nodes)
    assert isinstance(decide(spec("one-more"), None, [state], placed), NoFit)
    assert isinstance(decide(spec("app-0", replicas=each), None, [state], placed[1:]), Choice)


@st.composite
def full_clusters(draw: st.DrawFn) -> tuple[list[Demand], list[Node]]:
    """Demands, and nodes that hold exactly those: each replica was given to a node, and the node made larger by it."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=DEMANDS, max_size=DEMANDS))
    gpus = draw(st.lists(st.booleans(), min_size=DEMANDS, max_size=DEMANDS))
    random = draw(st.randoms(use_true_random=False))
    rooms: list[dict[str, int]] = [{CPU: 0, GPU: 0} for _ in range(NODES)]
    counts = [0] * DEMANDS
    for room in rooms:
        for _ in range(draw(st.integers(1, 3))):
            chosen = random.randrange(DEMANDS)
            counts[chosen] += 1
            room[CPU] += sizes[chosen]
            room[GPU] += gpus[chosen]
    demands = [
        Demand(f"d{index}", Need(((CPU, size), (GPU, 1)) if gpu else ((CPU, size),)), counts[index])
        for index, (size, gpu) in enumerate(zip(sizes, gpus, strict=True))
    ]
    return demands, [Node(f"n{index}", room) for index, room in enumerate(rooms)]


@settings(max_examples=25, deadline=None)
@given(full_clusters())
def test_a_full_cluster_of_many_nodes_is_answered(full: tuple[list[Demand], list[Node]]) -> None:
    demands, nodes = full
    packed = pack(demands, nodes)
    if packed is not None:  # None: the search is bounded, and such a cluster may be beyond it
        assert all(amount == 0 for node in packed for amount in node.room.values())
    assert pack([*demands, Demand("more", Need(((CPU, 1),)), 1)], nodes) is None


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 10), min_size=DEMANDS, max_size=DEMANDS))
def test_equal_replicas_fill_many_nodes_to_the_last_place(counts: list[int]) -> None:
    """One replica takes one node, so first fit cannot fail; one more has no place."""
    total = sum(counts)
    need = Need(((CPU, 1),))
    nodes = [Node(f"n{index}", {CPU: total // NODES + (index < total % NODES)}) for index in range(NODES)]
    demands = [Demand(f"d{index}", need, count) for index, count in enumerate(counts)]
    assert pack(demands, nodes) is not None
    assert pack([*demands, Demand("more", need, 1)], nodes) is None
