"""Which replica gets the next request."""

from __future__ import annotations

from collections import Counter
from random import Random

from serving._proto import records_pb2 as pb
from serving.gateway.balance import NO_DEMAND
from serving.gateway.catalog import Catalog, ModelKey
from serving.gateway.splits import Chosen
from serving.gateway.upstreams import Upstreams, upstream_key
from serving.routing import Traffic
from tests.unit.gateway.test_catalog import endpoint


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def made(*ids: str, labels: dict[str, str] | None = None) -> tuple[Upstreams, Catalog, Clock]:
    clock = Clock()
    catalog = Catalog([endpoint("chat", id=name, address=f"127.0.0.1:{80 + at}") for at, name in enumerate(ids)])
    upstreams = Upstreams(labels, chance=Random(7).random, monotonic=clock)
    upstreams.apply(catalog)
    return upstreams, catalog, clock


def picked(upstreams: Upstreams, catalog: Catalog, count: int = 200) -> Counter[str]:
    found = [upstreams.pick(catalog.find("chat")) for _ in range(count)]
    return Counter(one.endpoint.id for one in found if one is not None)


def test_the_less_busy_one_of_two() -> None:
    upstreams, catalog, _ = made("a", "b")
    offer = catalog.find("chat")
    first = upstreams.pick(offer)
    assert first is not None
    with upstreams.balance.work(first, offer, NO_DEMAND):
        assert set(picked(upstreams, catalog)) == {"a", "b"} - {first.endpoint.id}
    assert set(picked(upstreams, catalog)) == {"a", "b"}


def test_what_was_tried_is_not_picked_again() -> None:
    upstreams, catalog, _ = made("a", "b")
    offer = catalog.find("chat")
    tried = {upstream_key(offer.endpoints[0])}
    found = upstreams.pick(offer, tried)
    assert found is not None
    assert found.endpoint.id == "b"
    assert upstreams.pick(offer, tried | {found.key}) is None


def three_deployments() -> tuple[Upstreams, Catalog]:
    """Deployments `own`, `other` and `third` with a replica of the same name each."""
    clock = Clock()
    names = ("own", "other", "third")
    catalog = Catalog(
        [endpoint("chat", id=name, deployment=name, address=f"127.0.0.1:{80 + at}") for at, name in enumerate(names)]
    )
    upstreams = Upstreams(chance=Random(7).random, monotonic=clock)
    upstreams.apply(catalog)
    return upstreams, catalog


def chosen(side: str, **weights: int) -> Chosen:
    sides = [pb.TrafficSide(name=name, deployment=name, weight=weight) for name, weight in weights.items()]
    traffic = Traffic([pb.TrafficSplit(name="s", model="chat", sides=sides)])
    return Chosen(ModelKey("default", "app", "chat"), traffic, (("s", side),))


def test_replicas_of_other_sides_are_spare() -> None:
    upstreams, catalog = three_deployments()
    offer, sides = catalog.find("chat"), chosen("own", own=1, other=1)
    keys = {one.deployment: upstream_key(one) for one in offer.endpoints}

    def found(*tried: str, spare: bool = True) -> str:
        one = upstreams.pick(offer, {keys[name] for name in tried}, NO_DEMAND, sides, spare=spare)
        return one.endpoint.id if one is not None else ""

    assert {found() for _ in range(50)} == {"own"}
    assert found("own") == "other"
    assert found("own", spare=False) == ""
    assert found("own", "other") == "", "the third one has no weight"
    own = next(one for one in upstreams.everyone() if one.endpoint.id == "own")
    upstreams.full(own, 10)
    assert found() == "own", "one that has no room is no reason to ask another side"
    upstreams.lost(own)
    assert found() == "other"
    assert found("other") == "own", "an ejected one, as no other is left"


def test_a_request_that_began_before_its_record_changed_leaves_no_trace() -> None:
    """What it makes of the sides is not what the next request with the same sides gets."""
    upstreams, catalog = three_deployments()
    offer = catalog.find("chat")
    before, after = chosen("own", own=1, third=1), chosen("own", own=1, third=0, other=1)
    upstreams.changed()
    tried = {upstream_key(one) for one in offer.endpoints if one.deployment == "own"}
    for sides, deployment in ((before, "third"), (after, "other"), (before, "third")):
        found = upstreams.pick(offer, tried, NO_DEMAND, sides)
        assert found is not None
        assert found.endpoint.deployment == deployment


def test_near_ones_of_another_side_are_not_its_own() -> None:
    here, there = (endpoint("chat", id=name, deployment=name) for name in ("other", "own"))
    here.labels["zone"] = "a"
    catalog = Catalog([here, there])
    upstreams = Upstreams({"zone": "a"})
    upstreams.apply(catalog)
    found = upstreams.pick(catalog.find("chat"), chosen=chosen("own", own=1, other=1))
    assert found is not None
    assert found.endpoint.id == "own"


def test_a_lost_one_is_out_until_a_probe_finds_it() -> None:
    upstreams, catalog, clock = made("a", "b")
    lost = next(one for one in upstreams.everyone() if one.endpoint.id == "a")
    upstreams.lost(lost)
    assert set(picked(upstreams, catalog)) == {"b"}
    wait_s = upstreams.next_probe_in_s()
    assert wait_s is not None
    assert list(upstreams.due_probes()) == []
    clock.now += wait_s
    assert list(upstreams.due_probes()) == [lost]
    upstreams.probed(lost, True)
    assert set(picked(upstreams, catalog)) == {"a", "b"}
    assert upstreams.next_probe_in_s() is None


def test_the_last_one_is_asked_even_when_it_fails() -> None:
    upstreams, catalog, _ = made("a")
    upstreams.lost(upstreams.everyone()[0])
    assert set(picked(upstreams, catalog)) == {"a"}


def test_what_runs_is_remembered_when_the_record_changes_and_forgotten_when_it_moves() -> None:
    upstreams, catalog, _ = made("a")
    one = upstreams.pick(catalog.find("chat"))
    assert one is not None
    with upstreams.balance.work(one, catalog.find("chat"), NO_DEMAND):
        upstreams.apply(Catalog([endpoint("chat", id="a", address="127.0.0.1:80", state="draining")]))
        assert [(known.in_flight, known.ready) for known in upstreams.everyone()] == [(1, False)]
        upstreams.apply(Catalog([endpoint("chat", id="a", address="127.0.0.1:99")]))
        assert [(known.in_flight, known.ready) for known in upstreams.everyone()] == [(0, True)]
    assert one.in_flight == 0


def test_a_draining_one_gets_nothing() -> None:
    upstreams, _, _ = made("a")
    leaving = Catalog([endpoint("chat", id="a", address="127.0.0.1:80", state="draining")])
    upstreams.apply(leaving)
    assert upstreams.pick(leaving.find("chat")) is None
