"""What items are predicted to take, from their labels, sizes, and their clients' words."""

from __future__ import annotations

import math
import random

import pytest

from serving.broker.prediction import _MOST_KINDS, UNKNOWN_S, Features, Predictor
from serving.broker.sketch import Quantiles

NEAR = 0.06  # of a bucket


def taught(*lessons: tuple[Features, float], times: int = 10) -> Predictor:
    predictor = Predictor()
    for features, took_s in lessons * times:
        predictor.learn(features, took_s)
    return predictor


def test_nothing_is_known_at_first() -> None:
    assert Predictor().predict(Features()) == UNKNOWN_S
    assert Predictor().predict(Features(expected_s=7.0)) == 7.0
    assert Predictor().median() == 0.0


def test_by_all_labels_then_by_one_then_by_size() -> None:
    small, large = Features({"kind": "small"}), Features({"kind": "large"})
    predictor = taught((small, 0.1), (large, 30.0), (Features(size_bytes=1 << 20), 5.0))
    assert predictor.predict(small) == pytest.approx(0.1, rel=NEAR)
    assert predictor.predict(Features({"kind": "large"}, 900)) == pytest.approx(30.0, rel=NEAR)
    assert predictor.predict(Features({"kind": "new"}, (1 << 20) + 7)) == pytest.approx(5.0, rel=NEAR)


def test_the_label_that_tells_most_counts() -> None:
    chance = random.Random(1)
    predictor = Predictor()
    for number in range(400):
        long = chance.random() < 0.5
        labels = {"task": "train" if long else "ask", "user": f"u{number % 3}", "run": str(number)}
        predictor.learn(Features(labels), 100.0 if long else 1.0)
    assert predictor.predict(Features({"task": "train", "user": "u1", "run": "new"})) == pytest.approx(100.0, rel=NEAR)
    assert predictor.predict(Features({"user": "u1", "task": "ask", "run": "newer"})) == pytest.approx(1.0, rel=NEAR)


def test_by_size() -> None:
    predictor = taught(*((Features(size_bytes=1 << power), float(1 << power)) for power in range(10)))
    assert predictor.predict(Features(size_bytes=(1 << 7) + 1)) == pytest.approx(128.0, rel=NEAR)


def test_words_are_corrected_by_what_came_of_them() -> None:
    predictor = taught(
        (Features({"by": "optimist"}, expected_s=2.0), 6.0), (Features({"by": "honest"}, expected_s=2.0), 2.0)
    )
    assert predictor.predict(Features({"by": "optimist"}, expected_s=10.0)) == pytest.approx(30.0, rel=NEAR)
    assert predictor.predict(Features({"by": "honest"}, expected_s=10.0)) == pytest.approx(10.0, rel=NEAR)
    assert predictor.predict(Features({"by": "optimist"})) == pytest.approx(6.0, rel=NEAR), "without a word: by time"


def test_a_few_that_hang_do_no_harm() -> None:
    predictor = taught((Features(), 1.0), (Features(), 1.1), (Features(), 0.9), (Features(), 36000.0))
    assert predictor.predict(Features()) == pytest.approx(1.0, rel=0.15)
    assert predictor.median() == pytest.approx(1.0, rel=0.15)


def test_what_changed_is_learnt() -> None:
    predictor = taught((Features(), 1.0), times=1000)
    for _ in range(600):
        predictor.learn(Features(), 20.0)
    assert predictor.predict(Features()) == pytest.approx(20.0, rel=NEAR)


def test_four_are_not_enough() -> None:
    predictor = taught((Features({"kind": "new"}), 50.0), times=4)
    assert predictor.predict(Features({"kind": "new"})) == UNKNOWN_S


@pytest.mark.parametrize("took_s", [0.0, -1.0, math.nan, math.inf])
def test_times_that_are_none_teach_nothing(took_s: float) -> None:
    predictor = taught((Features(expected_s=3.0), took_s))
    assert predictor.predict(Features()) == UNKNOWN_S
    assert predictor.predict(Features(expected_s=took_s)) == UNKNOWN_S


def test_ever_new_labels_are_forgotten() -> None:
    predictor = taught((Features({"kind": "kept"}), 3.0))
    for number in range(2 * _MOST_KINDS):
        predictor.learn(Features({"run": str(number)}), 1.0)
        if number % 100 == 0:
            predictor.learn(Features({"kind": "kept"}), 3.0)
    assert len(predictor._kinds) == _MOST_KINDS
    assert predictor.predict(Features({"kind": "kept"})) == pytest.approx(3.0, rel=NEAR)


def test_quantiles_agree_with_sorting() -> None:
    chance = random.Random(2)
    seen: list[float] = []
    sketch = Quantiles(window=10_000)
    for _ in range(3000):
        seen.append(chance.lognormvariate(0.0, 2.0))
        sketch.add(seen[-1])
        if len(seen) < 300:
            assert sketch.median() == pytest.approx(sorted(seen)[(len(seen) - 1) // 2], rel=NEAR)
    seen.sort()
    for share in (0.01, 0.25, 0.5, 0.75, 0.99):
        assert sketch.quantile(share) == pytest.approx(seen[math.ceil(share * len(seen)) - 1], rel=NEAR)
    assert sketch.median() == pytest.approx(sketch.quantile(0.5), rel=NEAR)


def test_quantiles_follow_and_stay_small() -> None:
    sketch = Quantiles(window=100)
    assert (sketch.median(), sketch.quantile(0.9), sketch.count) == (0.0, 0.0, 0.0)
    for seconds in [1.0] * 1000 + [50.0] * 400:
        sketch.add(seconds)
    assert sketch.median() == pytest.approx(50.0, rel=NEAR)
    assert sketch.count < 200
    for seconds in (0.0, 1e-300, 1e300, math.inf):
        sketch.add(seconds)
    assert sketch.quantile(1.0) == pytest.approx(1e9, rel=NEAR)
    assert sketch.quantile(0.0) == pytest.approx(1e-6, rel=NEAR)
