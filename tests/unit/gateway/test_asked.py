"""Whom a request is for: routes and models, and what says that requests belong together."""

from __future__ import annotations

import pytest

from serving.gateway.asked import NoSuchModel, asked, leads_to, session_of
from serving.gateway.catalog import Catalog, ModelKey
from serving.openai.errors import InvalidRequest
from serving.routing import ModelRoute, WeightedModel
from tests.unit.gateway.test_catalog import endpoint

ROUTE = ModelRoute("gpt", [WeightedModel("default/chat/tiny", 1)], ["default/spare/tiny"])
CATALOG = Catalog([endpoint("tiny", app="chat"), endpoint("tiny", app="other")])


def test_a_route_and_a_model() -> None:
    found = asked("gpt", CATALOG, {"gpt": ROUTE}, "")
    assert (found.route, [str(key) for key in found.keys]) == ("gpt", ["default/chat/tiny", "default/spare/tiny"])
    found = asked("chat/tiny", CATALOG, {"gpt": ROUTE}, "")
    assert (found.route, found.keys) == ("", (ModelKey("default", "chat", "tiny"),))


def test_names_that_nobody_has() -> None:
    with pytest.raises(NoSuchModel, match="there is a route `gpt`"):
        asked("gtp", CATALOG, {"gpt": ROUTE}, "")
    with pytest.raises(InvalidRequest) as ambiguous:
        asked("tiny", CATALOG, {"gpt": ROUTE}, "")
    assert ambiguous.value.error_code == "ambiguous_model"


def test_what_a_route_leads_to() -> None:
    offer = leads_to(ROUTE, CATALOG)
    assert offer is not None
    assert str(offer.key) == "default/chat/tiny"
    assert leads_to(ModelRoute("r", [WeightedModel("default/none/m", 1)]), CATALOG) is None


@pytest.mark.parametrize(
    ("header", "body", "session"),
    [
        ("s", {"user": "u"}, "s"),
        ("", {"user": "u", "prompt_cache_key": "k"}, "k"),
        ("", {"user": "u"}, "u"),
        ("", {"user": 7, "prompt_cache_key": None}, ""),
    ],
)
def test_sessions(header: str, body: dict[str, object], session: str) -> None:
    assert session_of(header, body) == session


@pytest.mark.parametrize("text", ["", "m", "a/m", "A/b/m", "a/b/", "a//m"])
def test_what_is_no_full_name(text: str) -> None:
    assert ModelKey.parse(text) is None


def test_a_full_name_with_slashes() -> None:
    assert ModelKey.parse("a/b/org/m") == ModelKey("a", "b", "org/m")
