from __future__ import annotations

import pytest
from keeper_builders import alive, cluster, neighbour, resources, simple, spec

from keeper.placement import Choice, ClusterState, Current, Liveness, NoFit, decide
from serving._proto import records_pb2 as pb


def chosen(answer: Choice | NoFit) -> str:
    assert isinstance(answer, Choice), answer
    return answer.cluster


def reasons(answer: Choice | NoFit) -> dict[str, str]:
    assert isinstance(answer, NoFit), answer
    return dict(answer.reasons)


def test_goes_where_it_fits() -> None:
    assert chosen(decide(spec(cpus=4), None, [simple("east", 2), simple("west", 8)], [])) == "west"


def test_a_replica_must_fit_on_one_node() -> None:
    answer = decide(spec(cpus=4), None, [simple("east", 2, 2, 2)], [])
    assert reasons(answer) == {"east": "needs 4 CPUs on one node, the largest has 2 for the mesh"}


def test_room_taken_by_other_applications_counts() -> None:
    answer = decide(spec(cpus=4), None, [simple("east", 6)], [neighbour("east", spec("other", cpus=4))])
    assert reasons(answer) == {"east": "needs 4 CPUs on one node, the largest has 2 free"}


def test_foreign_use_counts_and_the_mesh_s_own_does_not_count_twice() -> None:
    busy = cluster("east", [resources(8)], available=[resources(3)], mesh_used=resources(2))
    placed = [neighbour("east", spec("other", cpus=2))]
    assert chosen(decide(spec(cpus=3), None, [alive(busy)], placed)) == "east"
    answer = decide(spec(cpus=4), None, [alive(busy)], placed)
    assert reasons(answer) == {"east": "needs 4 CPUs on one node, the largest has 3 free"}


def test_what_was_placed_a_moment_ago_counts_although_it_does_not_run_yet() -> None:
    idle = cluster("east", [resources(4)])
    answer = decide(spec(cpus=2), None, [alive(idle)], [neighbour("east", spec("other", cpus=3))])
    assert reasons(answer) == {"east": "needs 2 CPUs on one node, the largest has 1 free"}


def test_replicas_are_packed_together() -> None:
    state = simple("east", 3, 3)
    assert chosen(decide(spec(cpus=1.5, replicas=4), None, [state], [])) == "east"
    answer = decide(spec(cpus=2, replicas=3), None, [state], [])
    assert reasons(answer) == {"east": "3 replicas of 2 CPUs each are wanted, 2 fit"}


def test_two_deployments_that_fit_only_one_by_one() -> None:
    two = spec(cpus=3)
    other = two.deployments.add()
    other.CopyFrom(two.deployments[0])
    other.name = "letters"
    assert reasons(decide(two, None, [simple("east", 5)], [])) == {"east": "needs 6 CPUs in all, 5 free"}
    other.resources.cpus = 9
    answer = decide(two, None, [simple("east", 5)], [])
    assert reasons(answer)["east"] == ("deployment letters: needs 9 CPUs on one node, the largest has 5 for the mesh")


def test_gpu_memory_custom_and_accelerator() -> None:
    gpu = alive(cluster("gpus", [resources(8, gpus=2, memory=8 << 30, accelerator="H200", license=1)]))
    assert chosen(decide(spec(gpus=1, accelerator="H200"), None, [simple("east", 8), gpu], [])) == "gpus"
    answer = decide(spec(gpus=1, accelerator="A100"), None, [gpu], [])
    assert reasons(answer) == {"gpus": "needs accelerator A100, the cluster has H200"}
    answer = decide(spec(gpus=4), None, [gpu, simple("east", 8)], [])
    assert reasons(answer) == {
        "east": "needs 4 GPUs on one node, the largest has 0 for the mesh",
        "gpus": "needs 4 GPUs on one node, the largest has 2 for the mesh",
    }
    answer = decide(spec(memory=16 << 30), None, [gpu], [])
    assert reasons(answer) == {
        "gpus": "needs 16 GiB of memory on one node, the largest has 8 GiB of memory for the mesh"
    }
    answer = decide(spec(custom={"license": 2}), None, [gpu], [])
    assert reasons(answer) == {"gpus": "needs 2 `license` on one node, the largest has 1 for the mesh"}


def test_accelerator_named_as_ray_s_resource() -> None:
    total = resources(8, gpus=1, **{"accelerator_type:L4": 1.0})
    assert chosen(decide(spec(gpus=1, accelerator="L4"), None, [alive(cluster("east", [total]))], [])) == "east"


def test_labels_of_nodes() -> None:
    record = cluster("east", [resources(4), resources(8, gpus=1, accelerator="L4")])
    record.nodes[0].labels["zone"], record.nodes[1].labels["zone"] = "a", "b"
    east = alive(record)

    def wanting(*, cpus: float = 1, replicas: int = 1, accelerator: str = "", **labels: str) -> pb.ApplicationSpec:
        made = spec(cpus=cpus, replicas=replicas, accelerator=accelerator)
        made.deployments[0].scheduling.node_labels.update(labels)
        return made

    assert chosen(decide(wanting(zone="a"), None, [simple("west", 8), east], [])) == "east"
    assert reasons(decide(wanting(zone="c"), None, [east], [])) == {
        "east": "needs a node with the label zone=c, the cluster has a, b"
    }
    assert reasons(decide(wanting(disk="fast"), None, [east], [])) == {
        "east": "needs a node with the label disk=fast, the cluster has none"
    }
    assert reasons(decide(wanting(zone="a", accelerator="L4"), None, [east], [])) == {
        "east": "needs a node with L4, zone=a, no single one has all of it"
    }
    assert reasons(decide(wanting(zone="a", cpus=6), None, [east], [])) == {
        "east": "needs 6 CPUs on one node, the largest has 4 for the mesh (nodes with zone=a)"
    }
    assert reasons(decide(wanting(zone="a", replicas=5), None, [east], [])) == {
        "east": "5 replicas of 1 CPU each are wanted, 4 fit (nodes with zone=a)"
    }


def test_bundles_are_counted() -> None:
    east = alive(cluster("east", [resources(4), resources(4, gpus=1, accelerator="L4")]))

    def wanting(strategy: str = "", *, replicas: int = 1, **bundle: float) -> pb.ApplicationSpec:
        made = spec(cpus=2, replicas=replicas)
        made.deployments[0].scheduling.bundles.add(**bundle)
        made.deployments[0].scheduling.bundle_strategy = strategy
        return made

    assert chosen(decide(wanting(cpus=4), None, [east], [])) == "east"  # each finds a node
    assert reasons(decide(wanting("strict_pack", cpus=4), None, [east], [])) == {
        "east": "needs 6 CPUs on one node, the largest has 4 for the mesh"
    }
    assert reasons(decide(wanting(gpus=2), None, [east], [])) == {
        "east": "deployment digits, bundle 0: needs 2 GPUs on one node, the largest has 1 for the mesh"
    }
    assert chosen(decide(wanting(gpus=1), None, [simple("west", 8), east], [])) == "east"
    assert "east" in reasons(decide(wanting(replicas=2, gpus=1), None, [east], []))


def test_allowed_clusters_and_labels() -> None:
    east = simple("east", 8, labels={"zone": "a"})
    west = simple("west", 8, labels={"zone": "b"})
    only = pb.PlacementPolicy(clusters=["north"])
    assert reasons(decide(spec(policy=only), None, [east, west], [])) == {
        "east": "not among the allowed clusters (north)",
        "west": "not among the allowed clusters (north)",
    }
    zone = pb.PlacementPolicy(required_labels={"zone": "b"})
    assert chosen(decide(spec(policy=zone), None, [east, west], [])) == "west"
    assert reasons(decide(spec(policy=zone), None, [east, simple("plain", 8)], [])) == {
        "east": "label zone=b wanted, cluster has zone=a",
        "plain": "label zone=b wanted, cluster has no label zone",
    }


def test_every_reason_is_named_not_only_the_first() -> None:
    policy = pb.PlacementPolicy(
        clusters=["north"], required_labels={"zone": "b", "tier": "gold"}, spread_from=["other"]
    )
    wanted = spec(cpus=9, policy=policy)
    more = wanted.deployments.add()
    more.CopyFrom(wanted.deployments[0])
    more.name, more.resources.gpus = "letters", 1
    east = simple("east", 8, labels={"zone": "a"})
    assert reasons(decide(wanted, None, [east], [neighbour("east", spec("other"))]))["east"].split("; ") == [
        "not among the allowed clusters (north)",
        "label tier=gold wanted, cluster has no label tier",
        "label zone=b wanted, cluster has zone=a",
        "must not share a cluster with other, which is here",
        "deployment digits: needs 9 CPUs on one node, the largest has 8 for the mesh",
        "deployment letters: needs 9 CPUs on one node, the largest has 8 for the mesh, and "
        "needs 1 GPU on one node, the largest has 0 for the mesh",
    ]


def test_preferred_labels_win_over_load_but_not_over_room() -> None:
    liked = simple("east", 4, labels={"zone": "a"})
    empty = simple("west", 64)
    policy = pb.PlacementPolicy(preferred_labels={"zone": "a"})
    assert chosen(decide(spec(cpus=3, policy=policy), None, [liked, empty], [])) == "east"
    assert chosen(decide(spec(cpus=5, policy=policy), None, [liked, empty], [])) == "west"


def test_near_and_apart() -> None:
    states = [simple("east", 8), simple("west", 8)]
    shop = neighbour("west", spec("db"))
    near = spec(policy=pb.PlacementPolicy(near=["db"]))
    apart = spec(policy=pb.PlacementPolicy(spread_from=["db"]))
    assert chosen(decide(near, None, states, [shop])) == "west"
    assert chosen(decide(apart, None, states, [shop])) == "east"
    assert chosen(decide(near, None, states, [])) == "east"
    assert reasons(decide(near, None, states[:1], [shop])) == {"east": "must be near db, which is on west"}
    assert reasons(decide(apart, None, states[1:], [shop])) == {
        "west": "must not share a cluster with db, which is here"
    }


def test_spread_holds_in_both_directions_and_within_the_namespace() -> None:
    shy = spec("shy", policy=pb.PlacementPolicy(spread_from=["shop"]))
    states = [simple("east", 8), simple("west", 2)]
    assert chosen(decide(spec(), None, states, [neighbour("east", shy)])) == "west"
    elsewhere = spec("shy", namespace="other", policy=pb.PlacementPolicy(spread_from=["shop"]))
    assert chosen(decide(spec(), None, states, [neighbour("east", elsewhere)])) == "east"


def test_least_loaded_after_placement_then_fewest_then_name() -> None:
    states = [simple("east", 8), simple("west", 8)]
    assert chosen(decide(spec(), None, states, [neighbour("east", spec("a", cpus=2))])) == "west"
    assert chosen(decide(spec(), None, states, [])) == "east"
    nothing = spec(cpus=0)
    assert chosen(decide(nothing, None, states, [neighbour("east", spec("a", cpus=0))])) == "west"


def test_stays_while_it_may() -> None:
    crowded = [neighbour("east", spec("a", cpus=7)), neighbour("east", spec())]
    states = [simple("east", 8), simple("west", 64)]
    answer = decide(spec(), Current("east", spec()), states, crowded)
    assert answer == Choice("east", True, "stays where it is")


@pytest.mark.parametrize("liveness", [Liveness.ALIVE, Liveness.SILENT])
def test_a_cluster_that_is_short_or_silent_for_a_moment_moves_nothing(liveness: Liveness) -> None:
    short = cluster("east", [resources(8)], available=[resources(0)], mesh_used=resources(0))
    answer = decide(spec(), Current("east", spec()), [ClusterState(short, liveness), simple("west", 8)], [])
    assert isinstance(answer, Choice)
    assert (answer.cluster, answer.stays) == ("east", True)


def test_moves_when_the_cluster_is_gone() -> None:
    gone = ClusterState(pb.ClusterRecord(name="east"), Liveness.GONE)
    answer = decide(spec(), Current("east", spec()), [gone, simple("west", 8)], [])
    assert answer == Choice("west", False, "cluster east is gone")
    assert reasons(decide(spec(), Current("east", spec()), [gone], [])) == {"east": "the cluster is gone"}


def test_a_revision_that_grew_moves_only_when_it_no_longer_fits() -> None:
    states = [simple("east", 4), simple("west", 16)]
    assert chosen(decide(spec(cpus=4), Current("east", spec()), states, [])) == "east"
    answer = decide(spec(cpus=5), Current("east", spec()), states, [])
    assert answer == Choice("west", False, "cluster east no longer suits the spec")


def test_a_revision_that_is_no_longer_allowed_moves() -> None:
    policy = pb.PlacementPolicy(clusters=["west"])
    answer = decide(spec(policy=policy), Current("east", spec()), [simple("east", 4), simple("west", 4)], [])
    assert chosen(answer) == "west"


def test_others_that_have_too_little_of_something_else_do_not_matter() -> None:
    hungry = neighbour("east", spec("a", cpus=0, gpus=4))
    assert chosen(decide(spec(cpus=1), None, [simple("east", 4)], [hungry])) == "east"
