"""The pure autoscaler over load curves: how quickly it follows, and that it stands still when nothing happens."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.master.autoscaling import PAUSE_S, Autoscaler, Decision, Sample, ScalingPolicy, percentile
from serving.schedule import ScheduledMinimum, minute_of_day

POLICY = ScalingPolicy(least=1, most=100, ongoing=10.0)
STEP_S = 0.5
NOON = 1_790_000_000.0 - 1_790_000_000.0 % 86_400 + 43_200


def replay(
    scaler: Autoscaler,
    ongoing: Callable[[float], float],
    *,
    seconds: float,
    begin: float = NOON,
    starting: bool = False,
) -> list[Decision]:
    """Feeds a load curve (seconds since the begin → requests that run or wait) and collects what is decided.

    All replicas are ready at once, or are `starting` for ever.
    """
    made: list[Decision] = []
    for step in range(int(seconds / STEP_S)):
        now = begin + step * STEP_S
        ready = 0 if starting else scaler.size
        scaler.observe(Sample(now, ongoing(step * STEP_S), ready=ready))
        decision = scaler.decide(now, now)
        if decision is not None:
            assert decision.before != decision.after
            made.append(decision)
    times = [decision.at for decision in made]
    assert all(later - earlier >= PAUSE_S for earlier, later in itertools.pairwise(times))
    return made


@pytest.mark.parametrize("seed", range(20))
def test_noise_on_a_constant_load_changes_nothing(seed: int) -> None:
    """Poisson arrivals of a constant rate: ten minutes without a change after the size was found."""
    chance = random.Random(seed)
    scaler = Autoscaler(POLICY, 8)
    mean = 77.0

    def noisy(_: float) -> float:
        return max(0.0, chance.gauss(mean, math.sqrt(mean)))

    replay(scaler, noisy, seconds=60)
    found = scaler.size
    assert 8 <= found <= 9
    assert replay(scaler, noisy, seconds=600, begin=NOON + 60) == []


def test_a_step_of_ten_times_is_followed_within_one_window() -> None:
    scaler = Autoscaler(POLICY, 5)
    made = replay(scaler, lambda at: 50.0 if at < 60 else 500.0, seconds=60 + POLICY.window_s + STEP_S)
    assert scaler.size == 50
    assert made[0].at - NOON - 60 <= 2 * STEP_S, "it begins at once"
    assert "requests run or wait, 10 per replica are wanted" in made[-1].reason


def test_fewer_come_only_when_fewer_were_enough_all_the_time() -> None:
    """Load that comes back every minute keeps its replicas; when it stays away they go after the delay."""
    scaler = Autoscaler(POLICY, 10)
    assert replay(scaler, lambda at: 100.0 if at % 60 < 20 else 10.0, seconds=600) == []
    made = replay(scaler, lambda _: 10.0, seconds=200, begin=NOON + 600)
    assert scaler.size == 1
    assert made[0].at >= NOON + 560 + POLICY.down_delay_s - POLICY.window_s


def test_a_short_peak_does_not_count_where_more_must_be_wanted_for_a_while() -> None:
    policy = replace(POLICY, up_delay_s=30.0)
    scaler = Autoscaler(policy, 2)
    assert replay(scaler, lambda at: 200.0 if 100 <= at < 115 else 20.0, seconds=300) == []
    made = replay(scaler, lambda _: 200.0, seconds=60, begin=NOON + 300)
    assert 18 <= scaler.size <= 20, "what is a tenth off the target changes nothing"
    assert made[0].at >= NOON + 330


def test_steps_are_bounded() -> None:
    scaler = Autoscaler(replace(POLICY, max_step_up=3, max_step_down=2, down_delay_s=5.0), 4)
    made = replay(scaler, lambda at: 400.0 if at < 60 else 10.0, seconds=180)
    assert max(decision.after - decision.before for decision in made) == 3
    assert min(decision.after - decision.before for decision in made) == -2
    assert scaler.size == 1


def test_the_highest_target_counts() -> None:
    policy = ScalingPolicy(1, 100, ongoing=10.0, requests_per_s=100.0, cpu_cores=0.5, down_delay_s=10.0)
    for sample, expected in (
        (Sample(0, 50.0, 1000.0, 2.0), 10),
        (Sample(0, 150.0, 1000.0, 2.0), 15),
        (Sample(0, 50.0, 100.0, 20.0), 40),
    ):
        scaler = Autoscaler(policy, 3)
        for step in range(60):
            now = NOON + step * STEP_S
            scaler.observe(replace(sample, at=now, ready=scaler.size))
            scaler.decide(now, now)
        assert scaler.size == expected


def of_latency(at: float, p99_s: float, ready: int) -> Sample:
    """100 requests a sample, two of which took `p99_s`."""
    bounds = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
    within = tuple((bound, 100 if bound >= p99_s else 98) for bound in bounds)
    return Sample(at, 0, within=within, requests=100, ready=ready)


def replay_latency(scaler: Autoscaler, p99_of: Callable[[int], float], *, seconds: int, start_s: float) -> list[int]:
    """Closed loop: p99 follows from the replicas that are ready, each of which needs `start_s` to become so."""
    ready_at = [0.0] * scaler.size
    sizes = []
    for step in range(int(seconds / STEP_S)):
        at = step * STEP_S
        ready = sum(time <= at for time in ready_at)
        scaler.observe(of_latency(NOON + at, p99_of(ready), ready))
        scaler.decide(NOON + at, NOON + at)
        ready_at = sorted(ready_at)[: scaler.size]
        ready_at += [at + start_s] * (scaler.size - len(ready_at))
        sizes.append(scaler.size)
    return sizes


def test_latency_that_is_too_long_asks_for_more_and_waits_what_comes_of_them() -> None:
    """p99 is 0.8 s over the number of replicas: eight are right, however long they take to start."""
    policy = ScalingPolicy(1, 100, p99_s=0.1, down_delay_s=60.0)
    for start_s in (0.0, 5.0, 60.0):
        sizes = replay_latency(Autoscaler(policy, 1), lambda ready: 0.8 / max(ready, 1), seconds=600, start_s=start_s)
        assert 8 <= max(sizes) <= 20, "it does not run away while the first ones start"
        assert 8 <= sizes[-1] <= 16


def test_latency_that_is_short_takes_one_away_at_a_time() -> None:
    policy = ScalingPolicy(1, 20, p99_s=0.1, down_delay_s=20.0)
    sizes = replay_latency(Autoscaler(policy, 6), lambda _: 0.02, seconds=300, start_s=0.0)
    assert all(earlier - later in (0, 1) for earlier, later in itertools.pairwise(sizes))
    assert sizes[-1] < 6


def test_a_schedule_alone_goes_back_to_the_least() -> None:
    noon = ScheduledMinimum(minute_of_day("12:00"), minute_of_day("12:05"), 7)
    scaler = Autoscaler(ScalingPolicy(1, 10, schedule=(noon,), down_delay_s=30.0), 1)
    replay(scaler, lambda _: 0.0, seconds=60)
    assert scaler.size == 7
    replay(scaler, lambda _: 0.0, seconds=600, begin=NOON + 60)
    assert scaler.size == 1


@pytest.mark.parametrize("target", ["requests_per_s", "cpu_cores", "p99_s"])
def test_whoever_waits_wakes_the_first_replica_whatever_the_target_is(target: str) -> None:
    scaler = Autoscaler(ScalingPolicy(0, 10, **{target: 5.0}), 0)  # type: ignore[arg-type]
    assert replay(scaler, lambda _: 0.0, seconds=5) == []
    (decision,) = replay(scaler, lambda _: 50.0, seconds=1, begin=NOON + 5)
    assert (decision.after, decision.reason) == (1, "50 requests wait for the first replica")


def test_the_first_replica_is_not_taken_away_while_it_starts() -> None:
    """Those that waited for it have gone: it is ready first, and then no longer wanted."""
    scaler = Autoscaler(replace(POLICY, least=0, down_delay_s=5.0), 0)
    replay(scaler, lambda _: 1.0, seconds=2, starting=True)
    assert scaler.size == 1
    assert replay(scaler, lambda _: 0.0, seconds=300, begin=NOON + 2, starting=True) == []
    for step in range(60):
        at = NOON + 302 + step * STEP_S
        scaler.observe(Sample(at, 0.0, ready=1))
        scaler.decide(at, at)
    assert scaler.size == 0


def test_percentiles_are_interpolated() -> None:
    sample = Sample(0, 0, within=((0.1, 50), (0.2, 100)), requests=100)
    assert percentile([sample], 0.5) == pytest.approx(0.1)
    assert percentile([sample], 0.75) == pytest.approx(0.15)
    assert percentile([Sample(0, 0)], 0.99) == 0.0
    assert percentile([Sample(0, 0, within=((0.1, 0),), requests=10)], 0.99) == 0.2


def test_from_none_at_once_and_back_to_none_when_nobody_asks() -> None:
    scaler = Autoscaler(replace(POLICY, least=0, up_delay_s=60.0), 1)
    made = replay(scaler, lambda _: 0.0, seconds=300)
    assert (scaler.size, len(made)) == (0, 1)
    assert made[0].at >= NOON + POLICY.down_delay_s
    made = replay(scaler, lambda at: 1.0 if at >= 10 else 0.0, seconds=12, begin=NOON + 300)
    assert (scaler.size, made[0].at) == (1, NOON + 310)


def test_a_master_that_has_just_begun_takes_nothing_away() -> None:
    scaler = Autoscaler(POLICY, 30)
    assert replay(scaler, lambda _: 10.0, seconds=POLICY.down_delay_s) == []
    assert replay(scaler, lambda _: 10.0, seconds=5, begin=NOON + POLICY.down_delay_s) != []


def test_bounds_of_a_new_specification_count_at_once() -> None:
    scaler = Autoscaler(POLICY, 30)
    scaler.adopt(replace(POLICY, most=20))
    decision = scaler.keep_within(NOON, NOON)
    assert decision is not None
    assert (decision.after, decision.reason) == (20, "1 to 20 replicas are allowed")


def test_a_schedule_raises_the_minimum_while_it_holds() -> None:
    morning = ScheduledMinimum(minute_of_day("11:59"), minute_of_day("12:01"), 7)
    scaler = Autoscaler(replace(POLICY, schedule=(morning,), down_delay_s=5.0), 1)
    replay(scaler, lambda _: 1.0, seconds=300, begin=NOON - 150)
    assert scaler.size == 1
    replay(scaler, lambda _: 1.0, seconds=60, begin=NOON + 86_400 - 30)
    assert scaler.size == 7


@given(
    loads=st.lists(st.floats(0, 1e6), min_size=1, max_size=200),
    least=st.integers(0, 5),
    more=st.integers(1, 50),
    up=st.sampled_from([0.0, 3.0]),
    down=st.sampled_from([1.0, 10.0]),
)
@settings(max_examples=100, deadline=None)
def test_the_size_is_always_within_the_bounds(
    loads: list[float], least: int, more: int, up: float, down: float
) -> None:
    policy = ScalingPolicy(least, least + more, ongoing=3.0, up_delay_s=up, down_delay_s=down)
    scaler = Autoscaler(policy, max(1, least))
    for step, load in enumerate(loads):
        now = NOON + step * STEP_S
        scaler.observe(Sample(now, load))
        scaler.decide(now, now)
        assert least <= scaler.size <= least + more
