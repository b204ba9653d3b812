"""Forecasts: a pattern is learned, kept, and makes room before the load comes."""

from __future__ import annotations

import math

import pytest
from test_scaling import NET, World, order, rows

from serving._proto import records_pb2 as pb
from serving.master.autoscaling import Sample
from serving.master.forecast import Pattern, parts_of
from serving.master.scaling import SAMPLE_S, Scaling

DAY = 86_400.0
HOUR = 3600.0


def feed(pattern: Pattern, begin: float, seconds: float, load: float, *, every_s: float = 30.0) -> None:
    for step in range(int(seconds / every_s)):
        at = begin + step * every_s
        pattern.observe(Sample(at=at, ongoing=load, requests_per_s=2 * load, cpu_cores=load / 10), at)


@pytest.mark.parametrize(("period", "parts"), [(600.0, 12), (DAY, 288), (7 * DAY, 2016)])
def test_parts_of_a_period(period: float, parts: int) -> None:
    assert parts_of(period) == parts


def test_what_was_seen_is_expected_at_the_same_time_of_the_next_period() -> None:
    pattern = Pattern(DAY)
    assert pattern.expected(12 * HOUR, 300.0).ongoing == 0.0
    feed(pattern, 0.0, 8 * HOUR, 10.0)
    feed(pattern, 8 * HOUR, 2 * HOUR, 80.0)
    feed(pattern, 10 * HOUR, 14 * HOUR, 10.0)
    feed(pattern, DAY, HOUR, 10.0)
    quiet = pattern.expected(DAY + 7 * HOUR, 300.0)
    assert (quiet.ongoing, quiet.requests_per_s, quiet.cpu_cores) == (10.0, 20.0, 1.0)
    assert pattern.expected(DAY + 8 * HOUR - 301, 300.0).ongoing == 10.0
    assert pattern.expected(DAY + 8 * HOUR - 299, 300.0).ongoing == 80.0, "ahead of it"
    assert pattern.expected(DAY + 9 * HOUR, 300.0).ongoing == 80.0


def test_the_newest_period_counts_half_and_parts_hardly_seen_count_nothing() -> None:
    pattern = Pattern(DAY)
    feed(pattern, 0.0, 301.0, 10.0)
    feed(pattern, 300.0, 330.0, 0.0)
    feed(pattern, DAY, 330.0, 20.0)
    assert pattern.expected(0.0, 0.0).ongoing == 15.0
    feed(pattern, 2 * DAY + 200, 100.0, 1000.0)  # a master that began in the middle of it
    feed(pattern, 2 * DAY + 300, 330.0, 0.0)
    assert pattern.expected(0.0, 0.0).ongoing == 15.0


def predicting(**forecast: float) -> pb.Placement:
    made = order(high=20)
    made.stored.spec.deployments[0].autoscaling.forecast.MergeFrom(pb.Forecast(**forecast))  # type: ignore[arg-type]
    return made


def test_replicas_are_there_before_the_load_and_the_history_outlives_the_master() -> None:
    wanted = predicting(period_s=600.0, ahead_s=60.0)
    world = World(wanted)
    world.scaling.recall(None)
    world.now = 600.0 * 1000
    replicas = rows(6)
    sizes: dict[int, int] = {}

    def live(seconds: float) -> None:
        for _ in range(int(seconds / SAMPLE_S)):
            peak = 300 <= world.now % 600 < 400
            world.hear(replicas, in_flight=10 if peak else 1)
            world.look(replicas)
            sizes[int(world.now)] = world.scaling.sizes[NET]

    live(1200)
    assert sizes[600_200] == 1, "nothing is known in the first period"
    stored = world.scaling.history(wanted)
    assert len(stored.patterns[0].ongoing) == parts_of(600.0)
    world.scaling = Scaling()
    world.scaling.recall(stored)
    live(600)
    before_peak = 601_200 + 290
    assert sizes[before_peak] >= 6
    assert sizes[601_200 + 150] < 6
    assert "are expected within 60 s" in _reasons(world)


def _reasons(world: World) -> str:
    status = pb.ApplicationStatus(deployments=[pb.DeploymentStatus(name=NET)])
    world.scaling.tell(status)
    return " ".join(one.reason for one in status.deployments[0].scaling)


def test_nothing_is_learned_before_it_is_known_what_was_learned() -> None:
    world = World(predicting())
    world.run(rows(1), seconds=5, in_flight=3)
    assert not world.scaling.history(world.wanted).patterns
    world.scaling.recall(None)
    world.run(rows(1), seconds=5, in_flight=3)
    (pattern,) = world.scaling.history(world.wanted).patterns
    assert (pattern.deployment, pattern.period_s) == (NET, DAY)


def test_another_period_begins_anew() -> None:
    world = World(predicting(period_s=1200.0))
    known = pb.LoadPattern(deployment=NET, period_s=600.0, ongoing=[5.0] * 12)
    known.requests_per_s.extend([5.0] * 12)
    known.cpu_cores.extend([5.0] * 12)
    world.scaling.recall(pb.LoadHistory(patterns=[known]))
    world.run(rows(1), seconds=5, in_flight=3)
    assert set(world.scaling.history(world.wanted).patterns[0].ongoing) == {-1.0}
    assert math.isclose(world.scaling.history(world.wanted).patterns[0].period_s, 1200.0)
