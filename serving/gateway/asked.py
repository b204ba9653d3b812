"""Whom a request is for: the models that may answer it, by the name that it says."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from serving.errors import InvalidArgument, NotFound
from serving.gateway.catalog import Catalog, ModelKey, Offer, is_ready
from serving.gateway.keys.refusals import ModelNotAllowed
from serving.openai.errors import InvalidRequest
from serving.routing import ModelRoute
from serving.spelling import closest_match

_SESSION_FIELDS: Final = ("prompt_cache_key", "user")  # of OpenAI's requests; the first that says something counts


class NoSuchModel(NotFound):
    """OpenAI's error for a name that is neither a model's nor a route's."""

    param = "model"
    error_code = "model_not_found"


@dataclass(frozen=True, slots=True)
class Asked:
    """`keys` are the models that may answer, in the order in which they are asked. `route` "": it named a model."""

    keys: tuple[ModelKey, ...]
    route: str = ""


def may_ask_all(_model: ModelKey) -> bool:
    """Where no key is needed."""
    return True


def asked(
    name: str,
    catalog: Catalog,
    routes: Mapping[str, ModelRoute],
    session: str,
    chance: Callable[[], float] = random.random,
    *,
    may_ask: Callable[[ModelKey], bool] = may_ask_all,
) -> Asked:
    """A route's name comes before the own names of models, so that it can stand for one of them.

    `session` keeps a conversation at one target; empty: by chance. A route leads only to what its client `may_ask`.
    Raises OpenAI's errors: `NoSuchModel`, `ModelNotAllowed`, and `InvalidRequest` where several applications serve that
    name.
    """
    route = routes.get(name)
    if route is not None:
        keys = (ModelKey.parse(model) for model in route.order(session, chance))
        allowed = tuple(key for key in keys if key is not None and may_ask(key))
        if not allowed:
            raise ModelNotAllowed(name)
        return Asked(allowed, name)
    try:
        found = catalog.find(name, may_ask).key
    except NotFound as error:
        closest = closest_match(name, routes)
        hint = f"; there is a route `{closest}`" if closest else ""
        raise NoSuchModel(error.message + hint) from error
    except InvalidArgument as error:
        raise InvalidRequest(error.message, param="model", error_code="ambiguous_model") from error
    if not may_ask(found):
        raise ModelNotAllowed(name)
    return Asked((found,))


def session_of(header: str, body: Mapping[str, Any]) -> str:
    """What says that requests belong together: the header, else a field of OpenAI's; "" where nothing does."""
    if header:
        return header
    return next((value for name in _SESSION_FIELDS if isinstance(value := body.get(name), str) and value), "")


def leads_to(route: ModelRoute, catalog: Catalog, may_ask: Callable[[ModelKey], bool] = may_ask_all) -> Offer | None:
    """The first of a route's models that has a ready replica, those with a weight first; None: nobody would answer."""
    for model in route.order("", lambda: 0.0):
        key = ModelKey.parse(model)
        offer = catalog.get(key) if key is not None and may_ask(key) else None
        if offer is not None and is_ready(offer):
            return offer
    return None
