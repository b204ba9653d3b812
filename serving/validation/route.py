"""What is wrong with a route: a name at the gateways and the models that answer for it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from serving._proto import records_pb2 as pb
from serving.problems import Problem, check_duplicates, check_whole, is_clean, problems_error, shown
from serving.types import split_model_name

ROUTE_NAME_RULE: Final = "letters, digits and `. _ : -`, at most 128, a letter or digit first and last"
MAX_TARGETS: Final = 16
MAX_FALLBACKS: Final = 16
MAX_WEIGHT: Final = 1_000_000
MAX_MODEL_NAME: Final = 512  # letters
_ROUTE_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._:-]{0,126}[A-Za-z0-9])?")


def validate_route(route: pb.RouteRecord) -> None:
    """Raises `SpecError` that names every problem."""
    found = list(route_problems(route))
    if found:
        raise problems_error(found)


def route_problems(route: pb.RouteRecord) -> Iterator[Problem]:
    """A name has no slash, so that a route can neither hide a model's full name nor lead to another route."""
    yield from name_problems("name", route.name)
    if not route.targets:
        yield Problem("targets", "is empty: a route leads to one model at least")
    yield from _count("targets", len(route.targets), MAX_TARGETS)
    yield from _count("fallbacks", len(route.fallbacks), MAX_FALLBACKS)
    for index, target in enumerate(route.targets):
        yield from _model_problems(f"targets[{index}].model", target.model)
        yield from check_whole(f"targets[{index}].weight", target.weight, 0, MAX_WEIGHT)
    if route.targets and not any(target.weight > 0 for target in route.targets):
        yield Problem("targets", "have no weight: nobody would get a request; give one of them a weight above 0")
    for index, model in enumerate(route.fallbacks):
        yield from _model_problems(f"fallbacks[{index}]", model)
    yield from check_duplicates("targets", [target.model for target in route.targets])
    yield from check_duplicates("fallbacks", list(route.fallbacks))
    weighted = {target.model for target in route.targets if target.weight > 0}
    for index, model in enumerate(route.fallbacks):
        if model in weighted:
            yield Problem(f"fallbacks[{index}]", f"{shown(model)} is a target already, and asked before all fallbacks")


def name_problems(path: str, name: str) -> Iterator[Problem]:
    """Of the name of a route."""
    if not name:
        yield Problem(path, f"is missing ({ROUTE_NAME_RULE})")
    elif not _ROUTE_NAME.fullmatch(name):
        yield Problem(path, f"{shown(name)} is not a valid name of a route: {ROUTE_NAME_RULE}")


def _count(path: str, count: int, most: int) -> Iterator[Problem]:
    if count > most:
        yield Problem(path, f"has {count} entries, at most {most} are allowed")


def _model_problems(path: str, model: str) -> Iterator[Problem]:
    if not model:
        yield Problem(path, "is missing: the full name of a model, namespace/application/model")
    elif len(model) > MAX_MODEL_NAME or not is_clean(model):
        yield Problem(path, f"{shown(model)} is longer than {MAX_MODEL_NAME} letters or has control characters")
    elif split_model_name(model) is None:
        yield Problem(path, f"{shown(model)} is not the full name of a model, namespace/application/model")
