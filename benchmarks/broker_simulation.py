"""Serial replicas and ways to share requests out among them, as a simulation of events: no processes, no clock."""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Final, Literal, Protocol

from serving.broker.prediction import Features, Predictor
from serving.broker.queue import DEFAULT, QueueSettings, Waiting, WaitingQueue

REPLICAS: Final = 8
MEDIAN_S: Final = 0.05  # of short ones
LONG_FACTOR: Final = 100.0
LONG_SHARE: Final = 0.01  # of requests: half of the work
_PATIENCE_S: Final = 2 * MEDIAN_S  # as `puller/ahead.py` has it
Times = Literal["log-normal", "bounded Pareto"]


@dataclass(slots=True)
class Request:
    number: int
    long: bool
    takes_s: float
    arrives: float = 0.0
    starts: float = 0.0  # not before


class Dispatch(Protocol):
    """Who gets what. A replica runs one request at a time."""

    def arrives(self, request: Request, now: float) -> None: ...

    def next(self, replica: int, now: float) -> Request | None:
        """For a replica that runs nothing."""

    def ended(self, replica: int, request: Request, now: float) -> None: ...

    def wakes_at(self) -> float:
        """When it has something to do besides; math.inf: never."""
        return math.inf

    def wake(self, now: float) -> None:  # noqa: ARG002
        """At that time."""
        return


class Work:
    """Requests whose times are drawn from one distribution; long ones are of the same, `LONG_FACTOR` times as long."""

    def __init__(self, times: Times, seed: int, long_share: float = LONG_SHARE) -> None:
        self._chance = random.Random(seed)
        self._times = times
        self._long_share = long_share
        self._numbers = 0

    def draw(self) -> Request:
        """Numbers are drawn in the same order for any way to share out."""
        long = self._chance.random() < self._long_share
        takes_s = self._time() * (LONG_FACTOR if long else 1.0)
        self._numbers += 1
        return Request(self._numbers, long, takes_s)

    def gap(self) -> float:
        """Between two arrivals, when there is one in a second."""
        return self._chance.expovariate(1.0)

    def _time(self) -> float:
        if self._times == "log-normal":
            return MEDIAN_S * self._chance.lognormvariate(0.0, 0.4)
        return MEDIAN_S * _pareto(self._chance.random()) / _pareto(0.5)


def _pareto(share: float, shape: float = 1.5, most: float = 3.0) -> float:
    """The quantile of times between 1 and `most`."""
    return float((1 - share * (1 - most**-shape)) ** (-1 / shape))


def mean_s(times: Times, long_share: float = LONG_SHARE) -> float:
    """Of all requests, long ones too, over so many that chance is small."""
    work = Work(times, 0, 0.0)
    return math.fsum(work.draw().takes_s for _ in range(100_000)) / 100_000 * (1 + long_share * (LONG_FACTOR - 1))


@dataclass(frozen=True, slots=True)
class Outcome:
    """Seconds from submission to answer."""

    short: list[float]
    long: list[float]
    took_s: float  # from the first to the last


def open_loop(dispatch: Dispatch, work: Work, requests: int, rate: float, way_s: float = 0.0) -> Outcome:
    """`rate` requests arrive in a second, whether or not others are answered."""
    run = _Run(dispatch, way_s)
    arrives = 0.0
    for _ in range(requests):
        request = work.draw()
        arrives += work.gap() / rate
        run.until(arrives)
        run.submit(request, arrives)
    run.until(math.inf)
    return run.outcome(requests)


def closed_loop(dispatch: Dispatch, work: Work, requests: int, clients: int, way_s: float = 0.0) -> Outcome:
    """So many clients send the next request when the one before is answered."""
    run = _Run(dispatch, way_s)
    left = iter(range(requests - clients))
    run.answered = lambda now: run.submit(work.draw(), now) if next(left, None) is not None else None
    for _ in range(clients):
        run.submit(work.draw(), 0.0)
    run.until(math.inf)
    return run.outcome(requests)


def _nothing(_: float) -> None: ...


class _Run:
    def __init__(self, dispatch: Dispatch, way_s: float) -> None:
        self.answered: Callable[[float], None] = _nothing
        self._dispatch = dispatch
        self._way_s = way_s  # from a replica that is free to its next request
        self._free = set(range(REPLICAS))
        self._ends: list[tuple[float, int, Request]] = []
        self._answers: list[tuple[bool, float]] = []  # whether it was long, and seconds
        self._last = 0.0

    def submit(self, request: Request, now: float) -> None:
        request.arrives = now
        self._dispatch.arrives(request, now)
        self._start(now)

    def until(self, now: float) -> None:
        while (first := min(self._next_end(), self._dispatch.wakes_at())) <= now and first < math.inf:
            if first < self._next_end():
                self._dispatch.wake(first)
                self._start(first)
                continue
            self._last, replica, request = heappop(self._ends)
            self._free.add(replica)
            self._answers.append((request.long, self._last - request.arrives))
            self._dispatch.ended(replica, request, self._last)
            self._start(self._last)
            self.answered(self._last)

    def _next_end(self) -> float:
        return self._ends[0][0] if self._ends else math.inf

    def outcome(self, requests: int) -> Outcome:
        """Of the requests after the first tenth."""
        counted = self._answers[requests // 10 :]
        return Outcome([s for long, s in counted if not long], [s for long, s in counted if long], self._last)

    def _start(self, now: float) -> None:
        for replica in sorted(self._free):
            request = self._dispatch.next(replica, now)
            if request is not None:
                self._free.remove(replica)
                starts = max(now, request.starts) + self._way_s
                heappush(self._ends, (starts + request.takes_s, replica, request))


class Pushed(Dispatch):
    """Each request is sent to a replica when it arrives, and waits there: `choose` is told how many each one has."""

    def __init__(self, choose: Callable[[list[int]], int]) -> None:
        self._choose = choose
        self._has = [0] * REPLICAS
        self._queues: list[deque[Request]] = [deque() for _ in range(REPLICAS)]

    def arrives(self, request: Request, now: float) -> None:  # noqa: ARG002
        replica = self._choose(self._has)
        self._has[replica] += 1
        self._queues[replica].append(request)

    def next(self, replica: int, now: float) -> Request | None:  # noqa: ARG002
        return self._queues[replica].popleft() if self._queues[replica] else None

    def ended(self, replica: int, request: Request, now: float) -> None:  # noqa: ARG002
        self._has[replica] -= 1


def round_robin() -> Callable[[list[int]], int]:
    turns = _turns()
    return lambda _: next(turns)


def _turns() -> Iterator[int]:
    while True:
        yield from range(REPLICAS)


def at_random(seed: int = 1) -> Callable[[list[int]], int]:
    chance = random.Random(seed)
    return lambda _: chance.randrange(REPLICAS)


def two_choices(seed: int = 1) -> Callable[[list[int]], int]:
    chance = random.Random(seed)
    return lambda has: min(chance.sample(range(REPLICAS), 2), key=has.__getitem__)


class SingleQueue(Dispatch):
    """The ideal that nobody can build: it knows at once who is free, in one form also what takes how long."""

    def __init__(self, shortest_first: bool) -> None:
        self._shortest_first = shortest_first
        self._heap: list[tuple[float, int, Request]] = []

    def arrives(self, request: Request, now: float) -> None:
        heappush(self._heap, (request.takes_s if self._shortest_first else now, request.number, request))

    def next(self, replica: int, now: float) -> Request | None:  # noqa: ARG002
        return heappop(self._heap)[2] if self._heap else None

    def ended(self, replica: int, request: Request, now: float) -> None: ...


class Bounded(Dispatch):
    """JBSQ(n): one queue in the order of arrival, of which each replica has up to `most` to itself."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._has = [0] * REPLICAS
        self._queue: deque[Request] = deque()
        self._sent: list[deque[Request]] = [deque() for _ in range(REPLICAS)]

    def arrives(self, request: Request, now: float) -> None:  # noqa: ARG002
        self._queue.append(request)
        self._send()

    def next(self, replica: int, now: float) -> Request | None:  # noqa: ARG002
        return self._sent[replica].popleft() if self._sent[replica] else None

    def ended(self, replica: int, request: Request, now: float) -> None:  # noqa: ARG002
        self._has[replica] -= 1
        self._send()

    def _send(self) -> None:
        while self._queue and min(self._has) < self._most:
            replica = self._has.index(min(self._has))
            self._has[replica] += 1
            self._sent[replica].append(self._queue.popleft())


class Pulled(Dispatch):
    """Our queue, with replicas that ask for one at a time; what it knows of a request is one label, and what it saw."""

    ahead = 0  # requests that wait in replicas, at most

    def __init__(self, settings: QueueSettings | None = None) -> None:
        self._queue = WaitingQueue(settings or QueueSettings())
        self._predictor = Predictor()
        self._requests: dict[int, Request] = {}

    def arrives(self, request: Request, now: float) -> None:
        expected_s = self._predictor.predict(self._features(request))
        self._requests[request.number] = request
        self._queue.add(Waiting(request.number, "", DEFAULT, math.inf, request.arrives, expected_s, 0), now)

    def next(self, replica: int, now: float) -> Request | None:  # noqa: ARG002
        found = self._queue.take(now, REPLICAS, self.ahead)
        return None if found is None else self._requests.pop(found.number)

    def ended(self, replica: int, request: Request, now: float) -> None:  # noqa: ARG002
        self._queue.release(request.number)
        self._predictor.learn(self._features(request), request.takes_s)

    def release(self, request: Request) -> None:
        self._queue.release(request.number)

    @property
    def took_long(self) -> bool:
        return self._queue.took_long

    @staticmethod
    def _features(request: Request) -> Features:
        return Features({"task": "long" if request.long else "short"})


class PulledAhead(Pulled):
    """The same, `way_s` away from its replicas, each of which may have one more, behind one that is likely to be short.

    Who is free comes first: nothing is sent ahead while any replica is. What waits longer than `patience_s` goes back.
    """

    ahead = REPLICAS

    def __init__(self, way_s: float, patience_s: float = _PATIENCE_S) -> None:
        super().__init__()
        self._way_s = way_s
        self._patience_s = patience_s
        self._back: list[tuple[float, int, int]] = []  # when what waits goes back, replica and request
        self._closed: set[int] = set()  # replicas from which something went back, and nothing has ended since
        self._runs_long: dict[int, bool] = {}  # by replica that runs something
        self._waits: dict[int, tuple[Request, bool]] = {}  # by replica; whether it is likely to be long

    def arrives(self, request: Request, now: float) -> None:
        super().arrives(request, now)
        self._send_ahead(now)

    def next(self, replica: int, now: float) -> Request | None:
        found = self._waits.pop(replica, None) or self._sent(replica, now)
        if found is None:
            return None
        request, self._runs_long[replica] = found
        self._send_ahead(now)
        return request

    def ended(self, replica: int, request: Request, now: float) -> None:
        del self._runs_long[replica]
        self._closed.discard(replica)
        super().ended(replica, request, now)

    def wakes_at(self) -> float:
        while self._back and self._gone(*self._back[0][1:]):
            heappop(self._back)
        return self._back[0][0] if self._back else math.inf

    def _gone(self, replica: int, number: int) -> bool:
        return replica not in self._waits or self._waits[replica][0].number != number

    def wake(self, now: float) -> None:
        replica = heappop(self._back)[1]
        request, _ = self._waits.pop(replica)
        self._closed.add(replica)
        self.release(request)
        super().arrives(request, now)
        self._send_ahead(now)

    def _sent(self, replica: int, now: float) -> tuple[Request, bool] | None:
        request = super().next(replica, now)
        if request is None:
            return None
        request.starts = now + self._way_s
        return request, self.took_long

    def _send_ahead(self, now: float) -> None:
        if len(self._runs_long) < REPLICAS:
            return
        for replica, long in self._runs_long.items():
            if long or replica in self._waits or replica in self._closed:
                continue
            if (found := self._sent(replica, now)) is not None:
                self._waits[replica] = found
                heappush(self._back, (now + self._way_s + self._patience_s, replica, found[0].number))
