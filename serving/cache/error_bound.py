"""A user's bound on wrong semantic hits, learned for each stored answer. Pure.

The decision rule is that of vCache (Schroeder et al., "vCache: Verified Semantic Prompt Caching", arXiv 2502.03771,
section 4): for each entry a logistic curve is fitted to what was seen of it (similarity, whether the stored answer
was right). Its threshold t is known only with some confidence; for each confidence 1 - e there is a pessimistic t', and
with it a probability a = (1 - e) * P(right | similarity, t') that the answer is right. Generating anyway with
probability 1 - d / (1 - a) keeps the rate of wrong hits below d; the best e is taken.

Own here: the fit has a weak prior instead of a table of variances for data that a threshold separates perfectly.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Final

import numpy as np

Observation = tuple[float, bool]  # similarity, whether the stored answer was right

MIN_OBSERVATIONS: Final = 6  # fewer say nothing: the answer is generated
MAX_OBSERVATIONS: Final = 64  # the newest
_PRIOR: Final = 1e-3  # inverse variance of both parameters of the curve, in steps of _SCALE
_SCALE: Final = 0.05  # similarities that matter lie this close
_STEPS: Final = 30
# e, and how many standard deviations t' lies above t for it
_CONFIDENCES: Final = tuple(
    (10**-power, NormalDist().inv_cdf(1 - 10**-power)) for power in np.linspace(0.1, 6, 40).tolist()
)


def generate_probability(seen: Sequence[Observation], similarity: float, bound: float) -> float:
    """With which probability the answer must be generated although one is stored. `bound` is d, 0 to 1."""
    if len(seen) < MIN_OBSERVATIONS:
        return 1.0
    fitted = _fit(seen)
    if fitted is None:
        return 1.0
    threshold, slope, deviation = fitted
    best = 1.0
    for epsilon, deviations in _CONFIDENCES:
        pessimistic = threshold + deviations * deviation
        right = (1 - epsilon) * _sigmoid(slope * (similarity - pessimistic))
        best = min(best, 1 - bound / (1 - right))
    return max(best, 0.0)


def add_observation(learned: bytes | None, similarity: float, right: bool) -> bytes:
    """What is stored with an entry, one observation later."""
    kept = [*observations(learned), (round(similarity, 4), right)]
    return json.dumps(kept[-MAX_OBSERVATIONS:], separators=(",", ":")).encode()


def observations(learned: bytes | None) -> list[Observation]:
    return [(float(similarity), bool(right)) for similarity, right in json.loads(learned)] if learned else []


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-max(min(value, 500.0), -500.0)))


def _fit(seen: Sequence[Observation]) -> tuple[float, float, float] | None:
    """Threshold, slope and the threshold's standard deviation (delta method); None where more similar is not better."""
    centre = float(np.mean([similarity for similarity, _ in seen]))
    scaled = np.array([(similarity - centre) / _SCALE for similarity, _ in seen])
    design = np.column_stack([np.ones_like(scaled), scaled])
    labels = np.array([float(right) for _, right in seen])
    weights = np.array([0.0, 1.0])
    hessian = np.eye(2)
    for _ in range(_STEPS):
        chances = 1 / (1 + np.exp(-np.clip(design @ weights, -30, 30)))
        hessian = design.T @ (design * (chances * (1 - chances))[:, None]) + _PRIOR * np.eye(2)
        step = np.linalg.solve(hessian, design.T @ (labels - chances) - _PRIOR * weights)
        weights = weights + np.clip(step, -2, 2)
        if float(np.abs(step).max()) < 1e-6:
            break
    intercept, slope = float(weights[0]), float(weights[1])
    if slope <= 1e-3:
        return None
    gradient = np.array([-1 / slope, intercept / slope**2])
    deviation = math.sqrt(max(float(gradient @ np.linalg.solve(hessian, gradient)), 0.0))
    return centre - intercept / slope * _SCALE, slope / _SCALE, deviation * _SCALE
