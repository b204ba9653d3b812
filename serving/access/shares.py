"""How one limit of a key is split among gateways. Pure.

The invariant that every plan keeps: of every window, the claims of all gateways together are at most the limit, but for
what has been used beyond it already (debts), which is told as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from serving.access.windows import Period

_FEWEST_REQUESTS: Final = 4  # of the largest kind, that a share must hold to be of use


@dataclass(frozen=True, slots=True)
class Share:
    """What a gateway may use of one limit: `granted` in `window`, `next` in each later one.

    `wanted` is what it would use in a window, `largest` what one request asks for, `used` what is used of `granted`.
    """

    window: int = 0
    granted: int = 0
    next: int = 0
    wanted: int = 0
    used: int = 0
    largest: int = 0


@dataclass(frozen=True, slots=True)
class Peer:
    """Another gateway's share. Of one that does not live it counts until it is removed, but for places held."""

    name: str
    share: Share
    lives: bool = True


@dataclass(frozen=True, slots=True)
class Own:
    """This gateway's own state. `need` is what requests wait for now; `ahead` what is held in advance of a budget."""

    name: str
    used: int
    need: int
    wanted: int
    largest: int = 1
    ahead: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """`share` is to be written. `hopeless`: nobody has anything to give back of what is missing."""

    share: Share
    hopeless: bool
    free: int


def claim(peer: Peer, window: int, period: Period) -> int:
    """What counts against the limit in `window` because of this peer."""
    share = peer.share
    if period is Period.HELD:
        return share.granted if peer.lives else 0
    if share.window == window:
        return share.granted
    return share.next if share.window < window else max(share.granted, share.next)


def _later_claim(share: Share, window: int) -> int:
    """The most that may count because of this share in any window after `window`."""
    return max(share.granted, share.next) if share.window > window else share.next


def fair_split(limit: int, wants: Mapping[str, int]) -> dict[str, int]:
    """Max-min fair: nobody gets more than it wants before all have, and what is left is split evenly. Sums to `limit`.

    The same wants give the same split everywhere.
    """
    split = dict.fromkeys(sorted(wants), 0)
    left, open_names = max(0, limit), sorted(wants, key=lambda name: (wants[name], name))
    while open_names:
        even = left // len(open_names)
        name = open_names[0]
        if wants[name] > even:
            break
        split[name] = max(0, wants[name])
        left -= split[name]
        open_names.pop(0)
    receivers = sorted(open_names) or list(split)
    for position, name in enumerate(receivers):
        split[name] += left // len(receivers) + (1 if position < left % len(receivers) else 0)
    return split


def make_plan(limit: int, period: Period, window: int, own: Own, peers: Iterable[Peer]) -> Plan:
    """What this gateway should write, given what all others have written."""
    others = tuple(peers)
    claims = {peer.name: claim(peer, window, period) for peer in others}
    free = limit - sum(claims.values())
    if period.is_budget:
        return _budget_plan(window, own, others, free)
    living = {peer.name: peer.share for peer in others if peer.lives}
    split = _split(limit, own, living)
    fair = split[own.name]
    granted = max(own.used, min(max(own.used + own.need, fair), free))
    later = 0
    if period is not Period.HELD:
        later = max(0, min(fair, limit - sum(_later_claim(peer.share, window) for peer in others)))
    spare = sum(max(0, claims[name] - max(_used(share, window, period), split[name])) for name, share in living.items())
    missing = own.used + own.need > granted
    share = Share(window, granted, later, own.wanted, own.used, own.largest)
    return Plan(share, hopeless=missing and spare == 0, free=free - granted)


def _split(limit: int, own: Own, living: Mapping[str, Share]) -> dict[str, int]:
    """Of the gateways that live; nothing to anybody where shares would hold too few requests.

    Then who has a request takes its place when it comes: else places would lie where nobody asks.
    """
    wants = {name: share.wanted for name, share in living.items()} | {own.name: max(own.wanted, own.used + own.need)}
    contenders = sum(wanted > 0 for wanted in wants.values())
    largest = max([own.largest, 1, *(share.largest for share in living.values())])
    if contenders > 1 and limit < _FEWEST_REQUESTS * largest * contenders:
        return dict.fromkeys(wants, 0)
    return fair_split(limit, wants)


def _budget_plan(window: int, own: Own, others: tuple[Peer, ...], free: int) -> Plan:
    """Budgets are not split: who needs takes, and holds a little ahead while much is left."""
    living = [peer for peer in others if peer.lives and peer.share.window == window]
    short = any(peer.share.wanted > peer.share.granted for peer in living)
    needed = own.used + own.need
    ahead = 0 if short and free <= needed else max(0, min(own.ahead, (free - needed) // (2 * (len(living) + 1))))
    granted = max(own.used, min(needed + ahead, free))
    spare = sum(max(0, peer.share.granted - peer.share.used) for peer in living)
    share = Share(window, granted, 0, needed, own.used, own.largest)
    return Plan(share, hopeless=needed > granted and spare == 0, free=free - granted)


def _used(share: Share, window: int, period: Period) -> int:
    """What was used for certain: places that are given back may be free again since."""
    return share.used if share.window == window and period is not Period.HELD else 0


def is_short(peer: Peer, window: int, period: Period) -> bool:
    """True when it wants more than it may use, as it says."""
    return peer.lives and peer.share.wanted > claim(peer, window, period)


def worth_writing(
    before: Share | None, after: Share, *, limit: int, period: Period, others_short: bool, waiting: bool
) -> bool:
    """False for differences that change nothing for others, so that a busy key is not written with each request."""
    if before is None:
        return after.granted > 0 or after.wanted > 0
    granted, following = claim(Peer("", before), after.window, period), _later_claim(before, after.window)
    if waiting and (after.granted > granted or after.wanted != before.wanted):
        return True
    if after.granted > granted or after.next != following:
        return True
    if others_short and (after.granted < granted or after.used >= granted > _used(before, after.window, period)):
        return True
    if after.wanted == 0 != before.wanted or before.wanted > granted >= after.wanted:
        return True
    return abs(after.wanted - before.wanted) > max(1, limit // 8)
