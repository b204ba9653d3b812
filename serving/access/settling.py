"""What a gateway should write of one key, given what stands in etcd. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from serving._proto import records_pb2 as pb
from serving.access.meter import Counter, Meter
from serving.access.share_view import Written, limit_share, peers_of, share_of
from serving.access.shares import Plan, is_short, make_plan, worth_writing
from serving.access.windows import PERIODS, Period, window_of

_FOLDED: Final = 64  # names that are remembered


@dataclass(slots=True)
class Settlement:
    """`plans` by limit; `worth` when they should be written; `short`: limits of which another gateway wants more.

    `folded` are amounts by limit that come from `removed` gateways.
    """

    plans: dict[str, Plan] = field(default_factory=dict)
    worth: bool = False
    short: set[str] = field(default_factory=set)
    folded: dict[str, int] = field(default_factory=dict)
    removed: tuple[str, ...] = ()


def settle(
    meter: Meter, gateway: str, found: Mapping[str, Written], living: frozenset[str], gone: Collection[str] = ()
) -> Settlement:
    """The next write. `found` are the records of all gateways; those of `gone` are removed with it."""
    settlement = Settlement(removed=tuple(sorted(set(gone) & found.keys())))
    others = {name: one for name, one in found.items() if name != gateway and name not in settlement.removed}
    for name, counter in meter.counters.items():
        carried = sum(_carried(counter, found[one].record) for one in settlement.removed)
        peers = peers_of(others, name, living)
        own = counter.own(gateway)
        plan = make_plan(
            counter.limit, counter.period, counter.window.number, replace(own, used=own.used + carried), peers
        )
        short = any(is_short(peer, counter.window.number, counter.period) for peer in peers)
        settlement.plans[name] = plan
        settlement.folded[name] = carried
        if short:
            settlement.short.add(name)
        settlement.worth |= counter.changed or worth_writing(
            counter.published,
            plan.share,
            limit=counter.limit,
            period=counter.period,
            others_short=short,
            waiting=counter.need > 0,
        )
    settlement.worth |= bool(settlement.removed)
    return settlement


def record_of(meter: Meter, gateway: str, settlement: Settlement, before: pb.KeyShares | None) -> pb.KeyShares:
    """The record that says it."""
    shares = [limit_share(name, plan.share) for name, plan in settlement.plans.items()]
    folded = [*(before.folded if before is not None else ()), *settlement.removed]
    return pb.KeyShares(key=meter.key_id, gateway=gateway, shares=shares, folded=folded[-_FOLDED:])


def farewell(meter: Meter, gateway: str, before: pb.KeyShares | None) -> pb.KeyShares | None:
    """The last record of a gateway that ends in order: what it has used, and nothing ahead. None: nothing is left."""
    shares = [
        pb.LimitShare(limit=name, window=counter.window.number, granted=counter.used, used=counter.used)
        for name, counter in meter.counters.items()
        if counter.used and counter.period is not Period.HELD
    ]
    if not shares:
        return None
    folded = before.folded if before is not None else ()
    return pb.KeyShares(key=meter.key_id, gateway=gateway, shares=shares, folded=folded, left=True)


def may_go(record: pb.KeyShares, now: float) -> bool:
    """True when no minute of it lasts: budgets are folded, all else of it is over."""
    return not any(
        PERIODS.get(one.limit) is Period.MINUTE
        and one.granted
        and one.window >= window_of(Period.MINUTE, now, record.key).number
        for one in record.shares
    )


def _carried(counter: Counter, record: pb.KeyShares) -> int:
    """What a gateway that is gone has used, or held, of a budget's current window."""
    share = share_of(record, counter.name)
    return share.granted if counter.period.is_budget and share.window == counter.window.number else 0
