"""Routes as people write them: what is wrong with one is said, each with its place."""

from __future__ import annotations

import pytest

from serving.errors import SpecError
from serving.sdk import Route
from serving.sdk.routes import parse_routes

GOOD = """\
routes:
  - name: gpt-4o
    targets: {default/chat/tiny: 90, default/new/tiny: 10}
    fallbacks: [default/west/tiny]
  - name: "org:model.v2"
    targets: {default/chat/org/model: 1}
"""


def test_a_file() -> None:
    first, second = parse_routes(GOOD, "routes.yaml")
    assert first == Route("gpt-4o", {"default/chat/tiny": 90, "default/new/tiny": 10}, ("default/west/tiny",))
    assert first.record().targets[1].weight == 10
    assert second.name == "org:model.v2"


@pytest.mark.parametrize(
    ("route", "said"),
    [
        (Route("a/b", {"n/a/m": 1}), "name: `a/b` is not a valid name of a route"),
        (Route("", {"n/a/m": 1}), "name: is missing"),
        (Route("r", {}), "targets: is empty"),
        (Route("r", {"n/a/m": 0}), "targets: have no weight"),
        (Route("r", {"n/a/m": -1, "n/b/m": 1}), r"targets\[0\].weight: -1 is out of range: 0 to 1000000"),
        (Route("r", {"chat": 1}), r"targets\[0\].model: `chat` is not the full name of a model"),
        (Route("r", {"n/a/m": 1}, ["gpt"]), r"fallbacks\[0\]: `gpt` is not the full name"),
        (Route("r", {"n/a/m": 1}, ["n/b/m", "n/b/m"]), r"fallbacks\[1\]: `n/b/m` stands there twice"),
        (Route("r", {"n/a/m": 1}, ["n/a/m"]), r"fallbacks\[0\]: `n/a/m` is a target already"),
        (Route("r", {"n/a/" + "m" * 600: 1}), "longer than 512 letters"),
        (Route("r", {f"n/a/m{n}": 1 for n in range(17)}), "targets: has 17 entries, at most 16"),
    ],
)
def test_what_is_wrong(route: Route, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        route.record()


def test_a_file_names_lines() -> None:
    text = GOOD + "  - {name: gpt-4o, targets: {default/chat/tiny: 1}}\n  - {name: r, targets: {tiny: 1}, wieght: 2}\n"
    with pytest.raises(SpecError, match=r"routes\.yaml:8: .*wieght"):
        parse_routes(text, "routes.yaml")
    with pytest.raises(SpecError, match=r"routes\.yaml:7: routes\[2\].name: `gpt-4o` stands there twice"):
        parse_routes(text.rsplit("  - ", 1)[0], "routes.yaml")
