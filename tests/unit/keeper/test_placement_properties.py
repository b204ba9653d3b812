"""What must hold of every placement, whatever the specs and clusters."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from keeper_builders import alive, cluster, neighbour, resources, spec

from keeper.capacity import nodes_of
from keeper.constraints import Neighbour
from keeper.packing import Node, pack, pack_what_fits
from keeper.placement import Choice, ClusterState, Current, NoFit, decide
from keeper.resources import Demand, Need, demands_of, total_of
from serving._proto import records_pb2 as pb
from serving.store.keys import AppKey

amounts = st.sampled_from([0, 0.5, 1, 1.5, 2, 3, 4])
nodes = st.lists(
    st.builds(resources, st.sampled_from([1, 2, 3, 4, 6]), gpus=st.sampled_from([0, 1, 2])), min_size=1, max_size=3
)
zones = st.sampled_from(["a", "b"])
policies = st.builds(
    pb.PlacementPolicy,
    clusters=st.lists(st.sampled_from(["c0", "c1", "c2"]), max_size=2, unique=True),
    required_labels=st.dictionaries(st.just("zone"), zones, max_size=1),
    preferred_labels=st.dictionaries(st.just("tier"), st.sampled_from(["x", "y"]), max_size=1),
    spread_from=st.lists(st.sampled_from(["o0", "o1"]), max_size=1),
)
specs = st.builds(spec, cpus=amounts, gpus=st.sampled_from([0, 0, 1]), replicas=st.integers(1, 3), policy=policies)


@st.composite
def meshes(draw: st.DrawFn) -> tuple[list[ClusterState], list[Neighbour]]:
    """Clusters, and others placed on them by `decide` itself, so that what is placed fits."""
    states = [
        alive(cluster(f"c{index}", draw(nodes), labels={"zone": draw(zones), "tier": draw(st.sampled_from("xy"))}))
        for index in range(draw(st.integers(1, 3)))
    ]
    placed: list[Neighbour] = []
    for index in range(draw(st.integers(0, 3))):
        other = draw(specs)
        other.name = f"o{index}"
        answer = decide(other, None, states, placed)
        if isinstance(answer, Choice):
            placed.append(neighbour(answer.cluster, other))
    return states, placed


@given(meshes(), specs)
def test_never_more_than_capacity_and_never_where_it_is_forbidden(
    mesh: tuple[list[ClusterState], list[Neighbour]], wanted: pb.ApplicationSpec
) -> None:
    states, placed = mesh
    answer = decide(wanted, None, states, placed)
    if isinstance(answer, NoFit):
        assert [name for name, _ in answer.reasons] == sorted(state.name for state in states)
        assert all(reason for _, reason in answer.reasons)
        return
    state = next(state for state in states if state.name == answer.cluster)
    assert not wanted.placement.clusters or state.name in wanted.placement.clusters
    assert all(state.record.labels.get(k) == v for k, v in wanted.placement.required_labels.items())
    here = [other.spec for other in placed if other.cluster == state.name]
    assert not set(wanted.placement.spread_from) & {other.name for other in here}
    total = total_of(demand for item in [*here, wanted] for demand in demands_of(item))
    room = {name: sum(node.room.get(name, 0) for node in nodes_of(state.record)) for name in total}
    assert all(total[name] <= room[name] for name in total)


@given(meshes(), specs, st.randoms(use_true_random=False))
def test_deterministic_whatever_the_order(
    mesh: tuple[list[ClusterState], list[Neighbour]], wanted: pb.ApplicationSpec, random: st.DataObject
) -> None:
    states, placed = mesh
    first = decide(wanted, None, states, placed)
    shuffled, others = list(states), list(placed)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    random.shuffle(others)  # type: ignore[attr-defined]
    assert decide(wanted, None, shuffled, others) == first


@given(meshes(), specs)
def test_stable(mesh: tuple[list[ClusterState], list[Neighbour]], wanted: pb.ApplicationSpec) -> None:
    states, placed = mesh
    answer = decide(wanted, None, states, placed)
    if isinstance(answer, Choice):
        mine = Neighbour(AppKey("default", "shop"), answer.cluster, wanted)
        again = decide(wanted, Current(answer.cluster, wanted), states, [*placed, mine])
        assert isinstance(again, Choice)
        assert (again.cluster, again.stays) == (answer.cluster, True)


@given(meshes(), specs, st.data())
def test_more_capacity_never_makes_a_placeable_application_unplaceable(
    mesh: tuple[list[ClusterState], list[Neighbour]], wanted: pb.ApplicationSpec, data: st.DataObject
) -> None:
    states, placed = mesh
    if isinstance(decide(wanted, None, states, placed), NoFit):
        return
    grown = data.draw(st.sampled_from(states)).record
    if data.draw(st.booleans()):
        extra = data.draw(nodes)[0]
        grown.nodes.add(id="extra", total=extra, available=extra)
    else:
        node = data.draw(st.sampled_from(list(grown.nodes)))
        node.total.cpus += 1
        node.available.cpus += 1
    assert isinstance(decide(wanted, None, states, placed), Choice)


@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(1, 3)), max_size=4),
    st.lists(st.integers(0, 10), min_size=1, max_size=4),
)
def test_packing_puts_every_replica_somewhere_and_overfills_no_node(
    items: list[tuple[int, int]], rooms: list[int]
) -> None:
    demands = [Demand(f"d{i}", Need((("CPU", size),)), count) for i, (size, count) in enumerate(items)]
    packed = pack(demands, [Node(str(i), {"CPU": room}) for i, room in enumerate(rooms)])
    assert (packed is not None) == _fits([size for size, count in items for _ in range(count)], rooms)
    if packed is not None:
        left = [node.room["CPU"] for node in packed]
        assert all(value >= 0 for value in left)
        assert sum(rooms) - sum(left) == sum(size * count for size, count in items)


def _fits(sizes: list[int], rooms: list[int]) -> bool:
    """By trying everything."""
    if not sizes:
        return True
    size, rest = max(sizes), sorted(sizes, reverse=True)[1:]
    tried = set()
    for index, room in enumerate(rooms):
        if room >= size and room not in tried:
            tried.add(room)
            if _fits(rest, [*rooms[:index], room - size, *rooms[index + 1 :]]):
                return True
    return False


@given(st.lists(st.integers(1, 9), max_size=5), st.lists(st.integers(0, 5), min_size=1, max_size=3))
def test_too_much_that_is_placed_already_never_leaves_more_than_there_was(sizes: list[int], rooms: list[int]) -> None:
    demands = [Demand(f"d{i}", Need((("CPU", size),)), 1) for i, size in enumerate(sizes)]
    left = pack_what_fits(demands, [Node(str(i), {"CPU": room}) for i, room in enumerate(rooms)])
    assert all(0 <= node.room["CPU"] <= room for node, room in zip(left, rooms, strict=True))


def test_first_fit_s_anomaly_is_healed_by_the_search() -> None:
    demands = [Demand(f"d{i}", Need((("CPU", size),)), 1) for i, size in enumerate((6, 5, 5, 4, 4))]
    assert pack(demands, [Node("a", {"CPU": 14}), Node("b", {"CPU": 10})]) is not None
