"""The endpoints of a sender, what is on its way to each, and which rows each may get."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence
from typing import Final, Protocol

from serving.batch.rows.request import RowFault, RowRequest
from serving.batch.sending.places import LaneKey, Places, Spot
from serving.batch.sending.verdict import Next, Reply
from serving.batch.sending.window import Window, WindowConfig

_LOG: Final = logging.getLogger(__name__)


class Transport(Protocol):
    """How an endpoint is asked. `ask` never raises for what an endpoint does."""

    async def ask(self, spot: Spot, request: RowRequest) -> Reply: ...

    def forget(self, spot: Spot) -> None:
        """The endpoint has gone, and nothing is on its way there."""

    async def close(self) -> None: ...


async def ask(transport: Transport, spot: Spot, request: RowRequest) -> Reply:
    """Whatever it raises is told as a fault of that row: the others go on."""
    try:
        return await transport.ask(spot, request)
    except Exception as error:  # noqa: BLE001 - as said
        number = secrets.token_hex(4)
        _LOG.exception("a row could not be sent", extra={"endpoint": spot.key, "error_id": number})
        fault = RowFault("internal", f"the row could not be sent: {type(error).__name__}; see the log: {number}")
        return Reply(Next.ANSWER, fault=fault)


class Channel:
    """One endpoint, and what is on its way there. `gone`: it takes no more."""

    def __init__(self, spot: Spot, window: Window) -> None:
        self.spot = spot
        self.window = window
        self.in_flight = 0
        self.rests_until = 0.0
        self.wakes = False  # somebody looks when it has rested
        self.failures = 0  # since its last answer
        self.gone = False

    def has_room(self, now: float) -> bool:
        return self.in_flight < self.window.limit and now >= self.rests_until


class Channels:
    """Kept in step with the places by `update`. Belongs to one event loop."""

    def __init__(self, places: Places, transport: Transport, config: WindowConfig) -> None:
        self._places = places
        self._transport = transport
        self._config = config
        self._known: dict[str, Channel] = {}
        self._of: dict[LaneKey, tuple[Channel, ...]] = {}
        self._left: list[Channel] = []  # with requests on their way

    def __len__(self) -> int:
        return len(self._known)

    @property
    def in_flight(self) -> int:
        """Requests on their way, also to those that have gone."""
        return sum(channel.in_flight for channel in (*self._known.values(), *self._left))

    @property
    def limits(self) -> dict[str, int]:
        """Windows by endpoint."""
        return {key: channel.window.limit for key, channel in self._known.items()}

    def has_room(self) -> bool:
        """True when any window has, whether or not its endpoint rests."""
        return any(channel.in_flight < channel.window.limit for channel in self._known.values())

    def of(self, lane: LaneKey) -> Sequence[Channel]:
        """Those that take rows of the lane."""
        found = self._of.get(lane)
        if found is None:
            found = self._of[lane] = tuple(map(self._channel, self._places.spots(lane)))
        return found

    def lanes_of(self, channel: Channel) -> list[LaneKey]:
        return [lane for lane, channels in self._of.items() if channel in channels]

    def update(self) -> list[str]:
        """What the places say now. Gives the endpoints that have left."""
        spots = {spot.key: spot for spot in self._places.everywhere()}
        left = [key for key in self._known if key not in spots]
        for key in left:
            channel = self._known.pop(key)
            channel.gone = True
            if channel.in_flight:
                self._left.append(channel)
            else:
                self._transport.forget(channel.spot)
        for key, channel in self._known.items():
            channel.spot = spots[key]
        self._of = {}
        return left

    def ended(self, channel: Channel) -> None:
        """Nothing is on its way there any more."""
        if channel.gone and channel in self._left:
            self._left.remove(channel)
            if channel.spot.key not in self._known:  # else it has come back
                self._transport.forget(channel.spot)

    def _channel(self, spot: Spot) -> Channel:
        found = self._known.get(spot.key)
        if found is None:
            found = self._known[spot.key] = Channel(spot, Window(self._config.told(spot.at_once)))
        return found


def load_of(channel: Channel) -> float:
    """The share of its window that is taken."""
    return channel.in_flight / channel.window.limit
