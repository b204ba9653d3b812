"""To which sides of an application's splits a request belongs, and whose stored answers it may meet."""

from __future__ import annotations

from serving._proto import records_pb2 as pb
from serving.gateway.catalog import Catalog, ModelKey
from serving.gateway.splits import Chosen, lookup_of
from serving.routing import Traffic
from tests.unit.gateway.test_catalog import cache, endpoint

KEY = ModelKey("default", "app", "chat")


def test_headers_come_before_what_the_body_says() -> None:
    headers = [(b"x-variant", b"b"), (b"x-variant", b"c"), (b"user", b"header")]
    find = lookup_of(headers, {"user": "body", "prompt_cache_key": "talk", "model": "m", "metadata": {"x": "y"}})
    assert [find(name) for name in ("x-variant", "user", "prompt_cache_key", "model", "x")] == [
        *("b", "header", "talk"),
        *("", ""),
    ]
    assert lookup_of([], {"user": 7})("user") == ""


def test_an_offer_is_narrowed_to_who_will_answer() -> None:
    """So that the semantic cache is asked for what these answer, and not for what others do."""
    sides = [pb.TrafficSide(name=name, deployment=name, weight=1) for name in ("old", "new")]
    traffic = Traffic([pb.TrafficSplit(name="s", model="chat", sides=sides)])
    offer = Catalog([endpoint("chat", id=name, deployment=name) for name in ("old", "new", "third")]).find("chat")

    def narrowed(side: str, *without: str) -> list[str]:
        left = Catalog([one for one in offer.endpoints if one.deployment not in without]).find("chat")
        found = Chosen(KEY, traffic, (("s", side),)).narrowed(left)
        return [one.deployment for one in found.endpoints]

    assert narrowed("old") == ["old"]
    assert narrowed("new") == ["new"]
    assert narrowed("new", "new") == ["old"], "a spare one"
    assert Chosen(KEY).narrowed(offer) is offer


def test_stored_answers_of_those_who_may_not_answer_are_not_given() -> None:
    sides = [pb.TrafficSide(name="old", deployment="old", weight=1), pb.TrafficSide(name="new", deployment="new")]
    chosen = Chosen(KEY, Traffic([pb.TrafficSplit(name="s", model="chat", sides=sides)]), (("s", "old"),))
    offer = Catalog([endpoint("chat", deployment="new"), cache()]).find("chat")
    assert offer.cache is not None
    assert chosen.narrowed(offer).cache is None
