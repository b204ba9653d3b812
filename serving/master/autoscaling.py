"""How many replicas a deployment should have, from what they report. Pure; time is an argument, monotonic seconds.

Load is averaged over a window and divided by the target of one replica. More replicas come when more were wanted for
the whole of `up_delay_s` (the least of what was wanted then counts), fewer when fewer were enough for the whole of
`down_delay_s` (the most of what was wanted counts), so that noise on a constant load changes nothing.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from serving.master.backlog import Backlog
from serving.master.queue_policy import MOST_TIMES, TOLERANCE, needed, wish_for_age
from serving.schedule import ScheduledMinimum, scheduled_minimum
from serving.sdk.scaling import ScalingLoad

PAUSE_S: Final = 1.0  # between two changes of one deployment


@dataclass(frozen=True, slots=True)
class ScalingPolicy:
    """`least` to `most` replicas. Targets are per replica, 0 for none: see `Autoscaling` of records.proto."""

    least: int
    most: int
    ongoing: float = 0.0
    requests_per_s: float = 0.0
    cpu_cores: float = 0.0
    p99_s: float = 0.0
    queue_age_s: float = 0.0  # how long the oldest item at brokers waits
    window_s: float = 10.0
    up_delay_s: float = 0.0
    down_delay_s: float = 120.0
    max_step_up: int = 0
    max_step_down: int = 0
    schedule: tuple[ScheduledMinimum, ...] = ()
    custom: bool = False  # a function of the user's is asked, too


@dataclass(frozen=True, slots=True)
class Sample:
    """What all replicas together did at one moment, or since the sample before. `within`: requests by upper bounds."""

    at: float
    ongoing: float  # requests that run or wait, those that proxies hold included
    requests_per_s: float = 0.0
    cpu_cores: float = 0.0
    within: tuple[tuple[float, int], ...] = ()  # (seconds, how many took at most so long), rising
    requests: int = 0
    ready: int = 0  # replicas that were
    backlog: Backlog | None = None  # what waits at brokers; None: there are none


@dataclass(frozen=True, slots=True)
class Expected:
    """The load that a forecast expects within `ahead_s`; 0.0 is nothing."""

    ongoing: float = 0.0
    requests_per_s: float = 0.0
    cpu_cores: float = 0.0
    ahead_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Decision:
    """A change; `at` is in unix seconds."""

    at: float
    before: int
    after: int
    reason: str


@dataclass(slots=True)
class Autoscaler:
    """Of one deployment. `size` is the number that is wanted now."""

    policy: ScalingPolicy
    size: int
    expected: Expected = Expected()
    custom: tuple[float, str] | None = None  # what the user's function asks for, and in whose words; None: nothing
    _samples: deque[Sample] = field(default_factory=deque)
    _wanted: deque[tuple[float, int, str]] = field(default_factory=deque)
    _began: float | None = None
    _changed_at: float = -math.inf

    def adopt(self, policy: ScalingPolicy) -> None:
        """Another policy from now on; what was seen stays."""
        self.policy = policy

    def observe(self, sample: Sample) -> None:
        self._began = sample.at if self._began is None else self._began
        self._samples.append(sample)
        while self._samples[0].at < sample.at - self.policy.window_s:
            self._samples.popleft()

    def decide(self, now: float, unix_s: float) -> Decision | None:
        """The change to make after a sample; it counts as made. `unix_s` is for the schedule."""
        bounds = self._bounds(unix_s)
        wanted, reason = self._wish(bounds)
        self._remember(now, wanted, reason)
        if now < self._changed_at + PAUSE_S:
            return None
        return self._change(*self._stabilised(now, bounds), now, unix_s)

    def keep_within(self, now: float, unix_s: float) -> Decision | None:
        """What the bounds alone ask for, while nobody knows the load."""
        least, most = self._bounds(unix_s)
        return self._change(min(max(self.size, least), most), _allowed(least, most), now, unix_s)

    def _change(self, after: int, reason: str, now: float, unix_s: float) -> Decision | None:
        if after == self.size:
            return None
        decision = Decision(unix_s, self.size, after, reason)
        self.size, self._changed_at = after, now
        return decision

    def load(self, unix_s: float) -> ScalingLoad:
        """What a function of the user's is told after a sample."""
        least, most = self._bounds(unix_s)
        samples = self._samples
        return ScalingLoad(
            now=unix_s,
            size=self.size,
            ready=samples[-1].ready,
            least=least,
            most=most,
            ongoing=_mean(sample.ongoing for sample in samples),
            requests_per_s=_mean(sample.requests_per_s for sample in samples),
            cpu_cores=_mean(sample.cpu_cores for sample in samples),
            p99_s=percentile(samples, 0.99),
            queued=samples[-1].backlog.queued if samples[-1].backlog is not None else 0,
            queue_age_s=samples[-1].backlog.oldest_age_s if samples[-1].backlog is not None else 0.0,
        )

    # --------------------------------------------------------------------------------------------- what is wanted

    def _bounds(self, unix_s: float) -> tuple[int, int]:
        least = max(self.policy.least, scheduled_minimum(self.policy.schedule, unix_s))
        return min(least, self.policy.most), self.policy.most

    def _wish(self, bounds: tuple[int, int]) -> tuple[int, str]:
        """The number that the load of the window asks for, within the bounds, and why."""
        least, most = bounds
        wishes = list(self._targets())
        wishes += needed(self.size, self._samples[-1].ongoing, self._samples[-1].backlog)
        if not wishes:  # a schedule only
            return least, _allowed(least, most)
        number, reason = max(wishes)
        bounded = min(max(number, least), most)
        if bounded > number:
            reason += f"; {least} are the least"
        elif bounded < number:
            reason += f"; {most} are the most"
        return bounded, reason

    def _targets(self) -> Iterator[tuple[int, str]]:
        """What each target asks for."""
        policy, samples = self.policy, self._samples
        for target, average, what in (
            (policy.ongoing, _mean(s.ongoing for s in samples), "requests run or wait"),
            (policy.requests_per_s, _mean(s.requests_per_s for s in samples), "requests a second"),
            (policy.cpu_cores, _mean(s.cpu_cores for s in samples), "cores are used"),
        ):
            if target > 0:
                number = self._replicas_for(average / target)
                if number == 0 and average > 0:
                    number = 1
                yield number, f"{average:.3g} {what}, {target:.3g} per replica are wanted"
        yield from self._foreseen()
        yield from self._late()
        if policy.custom:
            wish, why = self.custom if self.custom is not None else (self.size, "the policy has not answered")
            yield math.ceil(min(wish, policy.most + 1) - 1e-9), why

    def _late(self) -> Iterator[tuple[int, str]]:
        """What the times of requests and the age of queues ask for."""
        policy = self.policy
        # Of the size that is there now: what was measured before, or while replicas start, says nothing of it.
        current = [s for s in self._samples if s.at > self._changed_at and s.ready >= self.size]
        settled = bool(current) and current[-1].at - current[0].at >= policy.window_s / 2
        if policy.p99_s > 0:
            p99 = percentile(current, 0.99)
            number = self._replicas_for_latency(p99) if settled else self.size
            yield number, f"p99 is {p99 * 1000:.3g} ms, {policy.p99_s * 1000:.3g} are wanted"
        backlogs = [s.backlog for s in self._samples if s.backlog is not None and s.backlog.known]
        if policy.queue_age_s > 0 and backlogs:
            wish, why = wish_for_age(backlogs, policy.queue_age_s, self.size, settled=settled)
            yield self._replicas_for(wish), why

    def _foreseen(self) -> Iterator[tuple[int, str]]:
        """What each target asks for of the load that is expected: it only ever adds to that of now."""
        policy, expected = self.policy, self.expected
        for target, load, what in (
            (policy.ongoing, expected.ongoing, "requests that run or wait"),
            (policy.requests_per_s, expected.requests_per_s, "requests a second"),
            (policy.cpu_cores, expected.cpu_cores, "cores"),
        ):
            if target > 0 and load > 0:
                told = f"{load:.3g} {what} are expected within {expected.ahead_s:.0f} s"
                yield max(1, self._replicas_for(load / target)), f"{told}, {target:.3g} per replica are wanted"

    def _replicas_for(self, replicas: float) -> int:
        """Rounded up, unless that is only a little off what there is."""
        if self.size > 0 and abs(replicas / self.size - 1) <= TOLERANCE:
            return self.size
        return math.ceil(min(replicas, self.policy.most + 1) - 1e-9)

    def _replicas_for_latency(self, p99_s: float) -> int:
        """Latency does not fall in step with replicas: more by its ratio, fewer only one at a time and well below."""
        ratio = p99_s / self.policy.p99_s
        if ratio > 1 + TOLERANCE:
            return math.ceil(max(self.size, 1) * min(ratio, MOST_TIMES))
        return self.size - 1 if ratio < 0.5 and self.size > 1 else self.size

    # --------------------------------------------------------------------------------------------- over time

    def _remember(self, now: float, wanted: int, reason: str) -> None:
        self._wanted.append((now, wanted, reason))
        longest = max(self.policy.up_delay_s, self.policy.down_delay_s)
        while self._wanted[0][0] < now - longest:
            self._wanted.popleft()

    def _stabilised(self, now: float, bounds: tuple[int, int]) -> tuple[int, str]:
        policy = self.policy
        least, most = bounds
        bounded = min(max(self.size, least), most)
        if bounded != self.size:
            return bounded, _allowed(least, most)
        if self.size == 0 and self._wanted[-1][1] > 0:
            return self._wanted[-1][1:]  # somebody waits for the first replica
        up, why_up = min(self._within(now, policy.up_delay_s), key=lambda found: found[0])
        # A few first samples say little, unless they say much more.
        sure = up >= 2 * self.size or self._known_for(now, policy.window_s / 2)
        if up > self.size and sure and self._known_for(now, policy.up_delay_s):
            return min(up, self.size + policy.max_step_up if policy.max_step_up else up), why_up
        down, why_down = max(self._within(now, policy.down_delay_s), key=lambda found: found[0])
        starting = self._samples[-1].ready == 0
        if down < self.size and self._known_for(now, policy.down_delay_s) and not starting:
            floor = self.size - policy.max_step_down if policy.max_step_down else down
            return max(down, floor), why_down
        return self.size, ""

    def _within(self, now: float, delay_s: float) -> list[tuple[int, str]]:
        """What was wanted since then, at least what is wanted now."""
        return [(number, reason) for at, number, reason in self._wanted if at >= now - delay_s]

    def _known_for(self, now: float, delay_s: float) -> bool:
        """Load has been looked at for so long: a master that has just begun knows nothing of the past."""
        return self._began is not None and now - self._began >= delay_s


def _allowed(least: int, most: int) -> str:
    return f"{least} to {most} replicas are allowed"


def percentile(samples: Iterable[Sample], share: float) -> float:
    """Seconds that so many of the samples' requests took at most, interpolated in its bucket; 0.0 without requests."""
    found = list(samples)
    wanted = share * sum(sample.requests for sample in found)
    if wanted == 0:
        return 0.0
    summed: dict[float, int] = {}
    for sample in found:
        for bound, count in sample.within:
            summed[bound] = summed.get(bound, 0) + count
    low, below = 0.0, 0
    for bound in sorted(summed):
        if summed[bound] >= wanted:
            return low + (bound - low) * (wanted - below) / max(1, summed[bound] - below)
        low, below = bound, summed[bound]
    return 2 * low  # longer than the longest bound


def _mean(values: Iterator[float]) -> float:
    found = list(values)
    return sum(found) / len(found)
