"""The one description of how requests are sent to an application's endpoints. Pure.

The C++ twin is `cpp_ext/routing/policy.h`; `tests/contract/routing` holds what both accept and refuse.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from serving.errors import SpecError
from serving.routing.outliers import OutlierConfig
from serving.routing.retry_budget import RetryBudgetConfig
from serving.spelling import closest_match

POWER_OF_TWO: Final = "power_of_two"
LEAST_LATENCY: Final = "least_latency"
CONSISTENT_HASH: Final = "consistent_hash"
CHOICES: Final = (POWER_OF_TWO, LEAST_LATENCY, CONSISTENT_HASH)

MAX_LABELS: Final = 256
_HOUR: Final = 3600.0
_DAY: Final = 24 * _HOUR
_SHORTEST: Final = 0.001  # of what must take time
_SHORTEST_HEDGE: Final = 0.0001
_MANY: Final = 1_000_000

METADATA_NAME: Final = re.compile(r"(?!grpc-)(?!.*-bin\Z)[0-9a-z_.-]+")  # that holds text
METADATA_RULE: Final = "a name of metadata with text: lower-case letters, digits and `_ . -`, neither grpc- nor -bin"

_Limits = dict[str, tuple[float, float]]  # a pair of ints: the number must be whole
_NUMBERS: Final[_Limits] = {
    "max_attempts": (1, _MANY),
    "backoff_s": (0.0, _HOUR),
    "backoff_max_s": (0.0, _HOUR),
    "unknown_model_wait_s": (0.0, _DAY),
    "max_in_flight_per_endpoint": (0, _MANY),
    "max_queued": (0, _MANY),
    "hedge_after_s": (_SHORTEST_HEDGE, _HOUR),
    "suspect_after_s": (_SHORTEST, _HOUR),
    "probe_timeout_s": (_SHORTEST, _HOUR),
    "probes": (1, 100),
}
_OUTLIER_NUMBERS: Final[_Limits] = {
    "consecutive_failures": (1, _MANY),
    "failure_rate": (0.001, 2.0),  # more than 1 is never
    "rate_requests": (1, _MANY),
    "window_s": (_SHORTEST, _DAY),
    "base_s": (_SHORTEST, _DAY),
    "max_s": (_SHORTEST, _DAY),
    "forgive_s": (0.0, _DAY),
    "max_share": (0.0, 1.0),
}
_BUDGET_NUMBERS: Final[_Limits] = {"share": (0.0, 10.0), "min_per_s": (0.0, 1e6), "capacity": (0.0, 1e6)}

C = TypeVar("C", OutlierConfig, RetryBudgetConfig)


@dataclass(frozen=True, slots=True)
class RoutingPolicy:
    """How requests are sent; raises `SpecError` that names the first field that is wrong.

    `choice` is one of `CHOICES`. `hash_key`: of consistent_hash, the metadata (lower case) whose first value says where
    a request belongs; one without it goes by power_of_two. `prefer_labels`: endpoints that miss the fewest of these
    come first. `max_attempts` bounds the attempts of one request, as its deadline and the budget do; the pauses between
    grow from `backoff_s` to `backoff_max_s`. A model that no endpoint offers is waited for `unknown_model_wait_s`.
    `max_in_flight_per_endpoint` (0: unlimited) bounds the requests of one endpoint, `max_queued` those that wait for
    room below that. After `hedge_after_s` a request is sent to a second endpoint as well. An endpoint that runs
    requests and answers nothing for `suspect_after_s` is probed `probes` times, `probe_timeout_s` each.
    """

    choice: str = POWER_OF_TWO
    hash_key: str = ""
    prefer_labels: tuple[tuple[str, str], ...] = ()
    outliers: OutlierConfig = field(default_factory=OutlierConfig)
    budget: RetryBudgetConfig = field(default_factory=RetryBudgetConfig)
    max_attempts: int = 100
    backoff_s: float = 0.025
    backoff_max_s: float = 1.0
    unknown_model_wait_s: float = 1.0
    max_in_flight_per_endpoint: int = 0
    max_queued: int = 1000
    hedge_after_s: float | None = None
    suspect_after_s: float = 1.0
    probe_timeout_s: float = 1.0
    probes: int = 2

    def __post_init__(self) -> None:
        self._check_choice()
        if len(self.prefer_labels) > MAX_LABELS:
            raise _wrong("prefer_labels", f"has more than {MAX_LABELS} entries")
        _check_numbers(self.outliers, _OUTLIER_NUMBERS, "outliers.")
        _check_order("outliers.", "base_s", self.outliers.base_s, "max_s", self.outliers.max_s)
        _check_numbers(self.budget, _BUDGET_NUMBERS, "budget.")
        _check_numbers(self, _NUMBERS, "")
        _check_order("", "backoff_s", self.backoff_s, "backoff_max_s", self.backoff_max_s)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RoutingPolicy:
        """From plain values, such as parsed JSON; absent fields and None have their defaults.

        Names may be in JSON's camelCase, too (`hashKey`). Raises `SpecError` for unknown and wrong fields.
        """
        known = tuple(item.name for item in dataclasses.fields(cls))
        given = _named(values, known, "")
        given["prefer_labels"] = _labels(given.get("prefer_labels", {}))
        given["outliers"] = _nested(OutlierConfig, given.get("outliers", {}), _OUTLIER_NUMBERS, "outliers")
        given["budget"] = _nested(RetryBudgetConfig, given.get("budget", {}), _BUDGET_NUMBERS, "budget")
        return cls(**{name: _whole(value, _NUMBERS.get(name)) for name, value in given.items()})

    def to_dict(self) -> dict[str, Any]:
        """What `from_dict` and the C++ twin read, as plain values; what is not set is left out."""
        values = dataclasses.asdict(self)
        values["prefer_labels"] = dict(self.prefer_labels)
        return {name: value for name, value in values.items() if value is not None and value != ""}

    def _check_choice(self) -> None:
        if self.choice not in CHOICES:
            closest = closest_match(str(self.choice), CHOICES)
            raise _wrong("choice", f"{self.choice!r} is not known", allowed=CHOICES, closest=closest)
        if not isinstance(self.hash_key, str):
            raise _wrong("hash_key", f"must be a text, not {self.hash_key!r}")
        if self.choice != CONSISTENT_HASH:
            if self.hash_key:
                raise _wrong("hash_key", f"means something only with choice {CONSISTENT_HASH}")
        elif not self.hash_key:
            raise _wrong("hash_key", f"is required with choice {CONSISTENT_HASH}: the name of the metadata to hash")
        elif not METADATA_NAME.fullmatch(self.hash_key):
            raise _wrong("hash_key", f"must be {METADATA_RULE}, not {self.hash_key!r}")


def _named(values: object, known: tuple[str, ...], path: str) -> dict[str, Any]:
    """The values that are there by the names of `known`."""
    if not isinstance(values, Mapping):
        raise _wrong(path[:-1], f"must be an object, not {values!r}")
    names = {_camel(name): name for name in known} | {name: name for name in known}
    given: dict[str, Any] = {}
    for spelled, value in values.items():
        name = names.get(spelled)
        if name is None:
            raise _wrong(f"{path}{spelled}", "is not known", allowed=known, closest=closest_match(str(spelled), known))
        if name in given:
            raise _wrong(f"{path}{name}", f"stands there twice, as {_camel(name)} too")
        given[name] = value
    return {name: value for name, value in given.items() if value is not None}


def _nested(kind: type[C], values: object, limits: _Limits, path: str) -> C:
    given = _named(values, tuple(limits), f"{path}.")
    return kind(**{name: _whole(value, limits[name]) for name, value in given.items()})


def _labels(values: object) -> tuple[tuple[str, str], ...]:
    if not isinstance(values, Mapping) or not all(
        isinstance(name, str) and name and isinstance(value, str) for name, value in values.items()
    ):
        raise _wrong("prefer_labels", f"must be an object of names and texts, not {values!r}")
    return tuple(sorted(values.items()))


def _whole(value: Any, limits: tuple[float, float] | None) -> Any:
    """JSON may write 5 as 5.0."""
    if limits is not None and isinstance(limits[0], int) and isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _check_numbers(config: object, limits: _Limits, path: str) -> None:
    for name, (low, high) in limits.items():
        value = getattr(config, name)
        if value is None and name == "hedge_after_s":
            continue
        whole = isinstance(low, int)
        kinds = int if whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
            what = "a whole number" if whole else "a number"
            raise _wrong(f"{path}{name}", f"must be {what} from {low} to {high}, not {value!r}")


def _check_order(path: str, low_name: str, low: float, high_name: str, high: float) -> None:
    if high < low:
        raise _wrong(f"{path}{high_name}", f"is less than {low_name}")


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(part.capitalize() for part in others)


def _wrong(path: str, message: str, *, allowed: tuple[str, ...] = (), closest: str = "") -> SpecError:
    where = path or "the routing policy"
    return SpecError(f"{where}: {message}", field=path, allowed=allowed, closest=closest)
