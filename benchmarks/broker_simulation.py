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
Times = Literal["log-normal", "bounded Pareto"]


@dataclass(slots=True)
class Request:
    number: int
    long: bool
    takes_s: float
    arrives: float = 0.0
    expected_s: float = 0.0


class Dispatch(Protocol):
    """Who gets what. A replica runs one request at a time."""

    def arrives(self, request: Request, now: float) -> None: ...

    def next(self, replica: int, now: float) -> Request | None:
        """For a replica that runs nothing."""

    def ended(self, replica: int, request: Request, now: float) -> None: ...


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
        while self._ends and self._ends[0][0] <= now:
            self._last, replica, request = heappop(self._ends)
            self._free.add(replica)
            self._answers.append((request.long, self._last - request.arrives))
            self._dispatch.ended(replica, request, self._last)
            self._start(self._last)
            self.answered(self._last)

    def outcome(self, requests: int) -> Outcome:
        """Of the requests after the first tenth."""
        counted = self._answers[requests // 10 :]
        return Outcome([s for long, s in counted if not long], [s for long, s in counted if long], self._last)

    def _start(self, now: float) -> None:
        for replica in sorted(self._free):
            request = self._dispatch.next(replica, now)
            if request is not None:
                self._free.remove(replica)
                heappush(self._ends, (now + self._way_s + request.takes_s, replica, request))


class Pushed:
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


class SingleQueue:
    """The ideal that nobody can build: it knows at once who is free, in one form also what takes how long."""

    def __init__(self, shortest_first: bool) -> None:
        self._shortest_first = shortest_first
        self._heap: list[tuple[float, int, Request]] = []

    def arrives(self, request: Request, now: float) -> None:
        heappush(self._heap, (request.takes_s if self._shortest_first else now, request.number, request))

    def next(self, replica: int, now: float) -> Request | None:  # noqa: ARG002
        return heappop(self._heap)[2] if self._heap else None

    def ended(self, replica: int, request: Request, now: float) -> None: ...


class Bounded:
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


class Pulled:
    """Our queue, with replicas that ask for one at a time; what it knows of a request is one label, and what it saw."""

    def __init__(self, settings: QueueSettings | None = None) -> None:
        self._queue = WaitingQueue(settings or QueueSettings())
        self._predictor = Predictor()
        self._requests: dict[int, Request] = {}

    def arrives(self, request: Request, now: float) -> None:
        expected_s = self._predictor.predict(self._features(request))
        self._requests[request.number] = request
        self._queue.add(Waiting(request.number, "", DEFAULT, math.inf, now, expected_s, 0), now)

    def next(self, replica: int, now: float) -> Request | None:  # noqa: ARG002
        found = self._queue.take(now, REPLICAS)
        return None if found is None else self._requests.pop(found.number)

    def ended(self, replica: int, request: Request, now: float) -> None:  # noqa: ARG002
        self._queue.release(request.number)
        self._predictor.learn(self._features(request), request.takes_s)

    @staticmethod
    def _features(request: Request) -> Features:
        return Features({"task": "long" if request.long else "short"})
