"""Which endpoints a request may go to."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from serving._proto import records_pb2 as pb
from serving.discovery.client_peers import PeerSet
from serving.routing import OutlierConfig, OutlierDetector, prefer_labels


def endpoint(name: str, **changes: object) -> pb.Endpoint:
    known: dict[str, object] = {
        "id": name,
        "address": f"127.0.0.1:{1000 + len(name)}",
        "state": "ready",
        "deployment": "d",
        "models": [pb.ModelRecord(name="m", versions=["1"])],
    }
    return pb.Endpoint(**(known | changes))  # type: ignore[arg-type]


def peers(*endpoints: pb.Endpoint, zone: str = "", choice: str = "power_of_two") -> PeerSet:
    detector: OutlierDetector[tuple[str, str]] = OutlierDetector(OutlierConfig(max_share=1.0))
    made = PeerSet(detector, prefer_labels({"zone": zone}) if zone else None, Random(1).random, choice=choice)
    made.apply(endpoints)
    return made


def picked(found: PeerSet, *, deployment: str = "", model: str = "", version: str = "") -> set[str]:
    route = found.route((deployment, model, version))
    return {peer.endpoint.id for _ in range(50) if (peer := route.pick((), 0.0))}


def test_only_kserve_with_an_address() -> None:
    found = peers(endpoint("a"), endpoint("b", protocol="openai-http"), endpoint("c", address=""))
    assert picked(found) == {"a"}


def test_by_deployment_model_and_version() -> None:
    models = [pb.ModelRecord(name="m", versions=["2"]), pb.ModelRecord(name="n")]
    found = peers(endpoint("a"), endpoint("b", models=models, deployment="e"), endpoint("c", models=[]))
    assert picked(found, model="m") == {"a", "b", "c"}
    assert picked(found, model="m", version="2") == {"b", "c"}
    assert picked(found, model="n", version="9") == {"b", "c"}, "without versions any may be there"
    assert picked(found, model="n", deployment="d") == {"c"}
    assert found.offered("") == ("m", "n")
    assert found.offered("d") == ("m",)


def test_draining_and_gone_get_nothing_new() -> None:
    found = peers(endpoint("a"), endpoint("b"), endpoint("c"))
    found.apply([endpoint("a"), endpoint("b", state="draining")])
    assert picked(found) == {"a"}
    found.apply([endpoint("b")])
    assert picked(found) == {"b"}
    assert {peer.endpoint.id for peer in found.take_idle_gone(())} == {"a", "c"}
    assert found.take_idle_gone(()) == []


def test_ejected_ones_only_when_all_are() -> None:
    found = peers(endpoint("a"), endpoint("b"))
    (first, second) = found.everyone()
    assert found.detector.lost(first.key, 0.0)
    found.changed()
    assert picked(found) == {second.endpoint.id}
    assert found.detector.lost(second.key, 0.0)
    found.changed()
    assert picked(found) == {"a", "b"}


def test_near_then_working_then_any() -> None:
    found = peers(endpoint("near", labels={"zone": "a"}), endpoint("far", labels={"zone": "b"}), zone="a")
    assert picked(found) == {"near"}
    near, far = found.everyone()
    assert found.route(("", "", "")).pick({near.key}, 0.0) is far
    assert found.route(("", "", "")).pick({near.key, far.key}, 0.0) is None
    found.detector.lost(near.key, 0.0)
    found.changed()
    assert picked(found) == {"far"}


def test_a_hash_key_stays_on_its_peer_and_goes_to_the_next_when_that_fails() -> None:
    names = ["a", "bb", "ccc", "dddd"]
    found = peers(*map(endpoint, names), choice="consistent_hash")
    keys = [f"user-{number}" for number in range(64)]

    def owners() -> dict[str, str]:
        route = found.route(("", "", ""))
        return {key: peer.endpoint.id for key in keys if (peer := route.pick((), 0.0, key))}

    before = owners()
    assert set(before.values()) == set(names)
    assert owners() == before
    first = next(peer for peer in found.everyone() if peer.endpoint.id == "a")
    untried = {key: peer.endpoint.id for key in keys if (peer := found.route(("", "", "")).pick({first.key}, 0.0, key))}
    found.detector.lost(first.key, 0.0)
    found.changed()
    after = owners()
    assert untried == after, "a retry goes where the key will be while its peer is out"
    assert {key for key in keys if before[key] != after[key]} == {key for key in keys if before[key] == "a"}
    everyone = {peer.key for peer in found.everyone()}
    assert found.route(("", "", "")).pick(everyone, 0.0, keys[0]) is None


def test_without_a_hash_key_work_is_spread() -> None:
    assert picked(peers(endpoint("a"), endpoint("bb"), choice="consistent_hash")) == {"a", "bb"}


def test_a_hash_key_means_nothing_to_the_other_choices() -> None:
    route = peers(endpoint("a"), endpoint("bb")).route(("", "", ""))
    assert {peer.endpoint.id for _ in range(50) if (peer := route.pick((), 0.0, "user"))} == {"a", "bb"}


def test_least_latency_takes_the_fastest_of_all() -> None:
    found = peers(endpoint("a"), endpoint("bb"), endpoint("ccc"), choice="least_latency")
    for peer, latency_s in zip(found.everyone(), (0.3, 0.1, 0.2), strict=True):
        for _ in range(5):
            peer.observe(latency_s, 0.0)
    assert picked(found) == {"bb"}
    route = found.route(("", "", ""))
    fastest = route.pick((), 0.0)
    assert fastest is not None
    second = route.pick({fastest.key}, 0.0)
    assert second is not None
    assert second.endpoint.id == "ccc"


def test_idle_peers_in_use_by_a_probe_are_kept() -> None:
    found = peers(endpoint("a"))
    (peer,) = found.everyone()
    found.apply([])
    assert found.take_idle_gone({peer.key}) == []
    assert found.take_idle_gone(()) == [peer]


def test_what_is_remembered_of_names_is_bounded() -> None:
    found = peers(endpoint("a"))
    for number in range(10_000):
        found.route(("", f"model-{number}", ""))
    assert len(found._routes) <= 4096


names = st.sampled_from(["a", "bb", "ccc", "dddd"])
views = st.lists(
    st.builds(
        endpoint,
        names,
        state=st.sampled_from(["ready", "draining"]),
        weight=st.integers(0, 300),
        models=st.lists(st.builds(pb.ModelRecord, name=st.sampled_from(["m", "n"])), max_size=2),
    ),
    max_size=4,
    unique_by=lambda record: record.id,
)


@given(st.lists(views, min_size=1, max_size=6), st.sampled_from(["", "m", "n"]), st.sets(names), st.sets(names))
def test_what_is_picked_is_always_allowed(
    history: list[list[pb.Endpoint]], model: str, lost: set[str], tried: set[str]
) -> None:
    """After any history of views: ready in the last one, offers the model, not tried, not ejected unless all are."""
    found = peers()
    for view in history:
        found.apply(view)
    keys = {peer.endpoint.id: peer.key for peer in found.everyone()}
    for name in lost & set(keys):
        found.detector.lost(keys[name], 0.0)
    found.changed()
    able = [
        record
        for record in history[-1]
        if record.state == "ready" and (not model or not record.models or any(m.name == model for m in record.models))
    ]
    left = {record.id for record in able} - tried
    peer = found.route(("", model, "")).pick({keys[name] for name in tried & set(keys)}, 0.0)
    assert (peer is None) == (not left)
    if peer is not None:
        assert peer.endpoint.id in left
        if not found.detector.is_active(peer.key):
            assert not any(found.detector.is_active(keys[name]) for name in left)
