"""Where a prompt goes: to whom knows how it begins, to its session's replica, or where the fewest tokens wait."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from random import Random
from typing import Any

import pytest

from serving._proto import records_pb2 as pb
from serving.gateway.catalog import Catalog, Offer
from serving.gateway.upstreams import Upstream, Upstreams
from serving.gateway.work import Work
from tests.unit.gateway.test_catalog import endpoint

CHAT = "/v1/chat/completions"
LONG = "You answer questions about the orders of one shop. " * 80  # about 1,000 tokens


class Edge:
    """Upstreams of one model over replicas of these names."""

    def __init__(self, *names: str, **routing: Any) -> None:
        self.upstreams = Upstreams(chance=Random(5).random, monotonic=lambda: 100.0)
        self.why: Counter[str] = Counter()
        self.upstreams.balance.routed = lambda why: self.why.update([why])
        self._routing = pb.LlmRouting(**routing)
        self.records: dict[str, pb.Endpoint] = {}
        for at, name in enumerate(names):
            self.records[name] = endpoint("chat", id=name, address=f"127.0.0.1:{80 + at}")
            self.records[name].llm_routing.CopyFrom(self._routing)
        self.apply()

    def apply(self) -> None:
        self.catalog = Catalog(pb.Endpoint.FromString(one.SerializeToString()) for one in self.records.values())
        self.upstreams.apply(self.catalog)

    def add(self, name: str) -> None:
        self.records[name] = endpoint("chat", id=name, address=f"127.0.0.1:{80 + len(self.records)}")
        self.records[name].llm_routing.CopyFrom(self._routing)
        self.apply()

    @property
    def offer(self) -> Offer:
        return self.catalog.find("chat")

    def replica(self, name: str) -> Upstream:
        return next(one for one in self.upstreams.everyone() if one.endpoint.id == name)

    def ask(self, text: str, *, session: str = "", fails: bool = False, **body: Any) -> str:
        """The name of the replica that answers it at once, with 128 tokens or nothing."""
        with ExitStack() as stack:
            name, work = self.begin(stack, text, session=session, **body)
            if not fails:
                work.answered({"content-type": "text/event-stream"})
                work.meter.add(b"data: {}\n\n" * 128)
        return name

    def begin(self, stack: ExitStack, text: str, *, session: str = "", **body: Any) -> tuple[str, Work]:
        """The same of a request that runs until the stack is left."""
        messages = [{"role": "user", "content": text}]
        demand = self.upstreams.balance.demand(self.offer, CHAT, {"messages": messages, **body}, session)
        found = self.upstreams.pick(self.offer, (), demand)
        assert found is not None
        return found.endpoint.id, stack.enter_context(self.upstreams.balance.work(found, self.offer, demand))


def test_a_prompt_goes_where_its_beginning_is_known() -> None:
    edge = Edge("a", "b", "c", "d")
    homes = {number: edge.ask(f"{number}: {LONG}") for number in range(20)}
    assert Counter(homes.values()) == dict.fromkeys("abcd", 5)  # each cache gets its part
    for turn in range(5):
        for number, home in homes.items():
            assert edge.ask(f"{number}: {LONG} and question {turn}") == home
    assert edge.why == {"load": 20, "prefix": 100}


def test_short_prompts_are_spread() -> None:
    edge = Edge("a", "b", "c", "d")
    counts = Counter(edge.ask("Hello") for _ in range(400))
    assert set(counts) == set("abcd")
    assert min(counts.values()) > 60


def test_a_replica_with_more_to_do_than_a_prefix_saves_is_left_alone() -> None:
    edge = Edge("a", "b")
    home = edge.ask(LONG)
    with ExitStack() as stack:
        names = [edge.begin(stack, f"{LONG} {number}", max_tokens=128)[0] for number in range(40)]
        assert names[0] == home
        counts = Counter(names)
        assert set(counts) == {"a", "b"}
        assert 10 <= counts[home] <= 30, counts
        waiting = {one.endpoint.id: one.outstanding_tokens for one in edge.upstreams.everyone()}
        assert abs(waiting["a"] - waiting["b"]) <= 1500, waiting
    assert [one.outstanding_tokens for one in edge.upstreams.everyone()] == [0.0, 0.0]
    assert [one.in_flight for one in edge.upstreams.everyone()] == [0, 0]


def test_what_was_answered_waits_no_more_but_for_its_answer() -> None:
    edge = Edge("a")
    with ExitStack() as stack:
        _, work = edge.begin(stack, LONG, max_tokens=100)
        before = edge.replica("a").outstanding_tokens
        work.answered({})
        assert edge.replica("a").outstanding_tokens == 100
        assert before > 900


@pytest.mark.parametrize(("weight", "choices", "wanted"), [(1.0, 1, 50), (0.0, 1, 0), (2.0, 3, 300)])
def test_answers_count_by_their_weight(weight: float, choices: int, wanted: int) -> None:
    edge = Edge("a", answer_weight=weight)
    with ExitStack() as stack:
        _, work = edge.begin(stack, LONG, max_tokens=50, n=choices)
        work.answered({})
        assert edge.replica("a").outstanding_tokens == wanted


def test_a_prompt_that_was_refused_is_not_known() -> None:
    edge = Edge("a", "b")
    edge.ask(LONG, fails=True)
    assert edge.upstreams.balance.index_bytes == 0
    home = edge.ask(LONG)
    other = next(name for name in "ab" if name != home)
    with ExitStack() as stack:
        edge.begin(stack, "x" * 50_000)  # keeps one busy
        assert edge.ask(LONG + "more", fails=True) in (home, other)
    assert edge.ask(LONG) == home


def test_a_replica_that_starts_anew_or_goes_knows_nothing() -> None:
    edge = Edge("a", "b")
    home = edge.ask(LONG)
    edge.records[home].pid = 77
    edge.apply()
    assert edge.upstreams.balance.index_bytes == 0
    home = edge.ask(LONG)
    gone = edge.records.pop(home)
    edge.apply()
    assert edge.upstreams.balance.index_bytes == 0
    left = edge.ask(LONG)
    edge.records[home] = gone
    edge.apply()
    assert {edge.ask(f"{LONG} {number}") for number in range(20)} == {left}


def test_a_new_replica_gets_what_nobody_knows() -> None:
    edge = Edge("a", "b")
    for number in range(10):
        edge.ask(f"{number}: {LONG}")
    edge.add("c")
    assert "c" in {edge.ask(f"new {number}: {LONG}") for number in range(30)}


def test_no_more_is_believed_than_the_cache_holds() -> None:
    edge = Edge("a")
    edge.records["a"].load.prefix_cache_tokens = 3000
    edge.apply()
    for number in range(100):
        edge.ask(f"{number:04}: {LONG}")
    small = edge.upstreams.balance.index_bytes
    assert 0 < small < 4000
    edge.records["a"].load.prefix_cache_tokens = -1
    edge.apply()
    with_none = edge.upstreams.balance.index_bytes
    edge.ask(f"another: {LONG}")
    assert edge.upstreams.balance.index_bytes == with_none


def test_a_replica_that_does_not_find_what_it_should_know_is_trusted_less() -> None:
    edge = Edge("a", "b")
    home = edge.ask(LONG)
    for number in range(30):
        with ExitStack() as stack:
            name, work = edge.begin(stack, f"{LONG} {number}")
            work.answered({"x-mesh-prompt-tokens": "1000", "x-mesh-cached-tokens": "0"})
            if name != home:
                break
    assert edge.replica(home).trust < 0.9
    trusted = edge.replica(home).trust
    with ExitStack() as stack:
        demand = edge.upstreams.balance.demand(edge.offer, CHAT, {"messages": [{"role": "user", "content": LONG}]}, "")
        work = stack.enter_context(edge.upstreams.balance.work(edge.replica(home), edge.offer, demand))
        work.answered({"x-mesh-prompt-tokens": "1000", "x-mesh-cached-tokens": "1000"})
    assert edge.replica(home).trust > trusted


def test_a_session_stays_while_others_come_and_go() -> None:
    edge = Edge("a", "b", "c")
    homes = {name: edge.ask("Hello", session=name) for name in map(str, range(30))}
    assert set(homes.values()) == {"a", "b", "c"}
    edge.add("d")
    assert {name: edge.ask("Hello", session=name) for name in homes} == homes
    del edge.records["a"]
    edge.apply()
    moved = {name: edge.ask("Hello", session=name) for name in homes}
    assert {name: moved[name] for name, home in homes.items() if home != "a"} == {
        name: home for name, home in homes.items() if home != "a"
    }
    assert "a" not in moved.values()
    assert {name: edge.ask("Hello", session=name) for name in homes} == moved


def test_gateways_agree_where_a_session_begins() -> None:
    one, other = Edge("a", "b", "c"), Edge("c", "b", "a")
    for name in map(str, range(30)):
        assert one.ask("Hello", session=name) == other.ask("Hello", session=name)


def test_a_session_leaves_a_replica_that_has_too_much_to_do() -> None:
    edge = Edge("a", "b", overload_tokens=2000)
    home = edge.ask("Hello", session="mine")
    with ExitStack() as stack:
        while edge.replica(home).outstanding_tokens <= 2000:
            name, _ = edge.begin(stack, LONG, session="mine")
            assert name == home
        moved = edge.ask("Hello", session="mine")
        assert moved != home
    assert edge.ask("Hello", session="mine") == moved


def test_a_session_is_named_where_the_spec_says() -> None:
    edge = Edge("a", "b", "c", session_keys=["user"])
    assert len({edge.ask("Hello", user="me", session=str(number)) for number in range(30)}) == 1
    usual = Edge("a", "b", "c")
    assert len({usual.ask("Hello", user="me") for _ in range(30)}) == 3
    assert len({usual.ask("Hello", prompt_cache_key="me") for _ in range(30)}) == 1


def test_other_choices() -> None:
    turns = Edge("a", "b", "c", choice="round_robin")
    assert [turns.ask(LONG) for _ in range(6)] == ["a", "b", "c"] * 2
    assert turns.upstreams.balance.index_bytes == 0
    tokens = Edge("a", "b", choice="least_tokens")
    assert {tokens.ask(LONG) for _ in range(30)} == {"a", "b"}
    assert tokens.upstreams.balance.index_bytes == 0
    two = Edge("a", "b", choice="power_of_two")
    assert {two.ask(LONG, session="mine") for _ in range(30)} == {"a", "b"}
    assert two.why == {}


def test_the_newest_revision_says_how() -> None:
    edge = Edge("a", "b")
    edge.records["b"].revision = 2
    edge.records["b"].llm_routing.choice = "round_robin"
    edge.apply()
    assert edge.offer.routing.choice == "round_robin"
