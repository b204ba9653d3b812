"""Prices European call options by simulation: requests take milliseconds or minutes, as their clients choose."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from serving.errors import InvalidArgument
from serving.python_deployment import Request, Tensor

_TOGETHER = 100_000  # paths between two answers
_MOST = 10**10  # paths


class Option:
    """Input `option`: spot, strike, rate and volatility a year, years. `paths`: how many prices are drawn.

    Answers the price so far and its standard error after each 100,000 paths; the last answer is the result.
    """

    inputs = (Tensor("option", "FP64", (5,)), Tensor("paths", "INT64", (1,)))
    outputs = (Tensor("price", "FP64", (1,)), Tensor("error", "FP64", (1,)))

    def infer(self, request: Request) -> Iterator[dict[str, NDArray[np.float64]]]:
        spot, strike, rate, volatility, years = (float(value) for value in request["option"])
        paths = int(request["paths"][0])
        if min(spot, strike, volatility, years) <= 0:
            raise InvalidArgument("option: spot, strike, volatility and years must be above 0")
        if not 1 < paths <= _MOST:
            raise InvalidArgument(f"paths: {paths:,}; 2 to {_MOST:,} are wanted")
        chance = np.random.default_rng(paths)  # so that another attempt gives the same
        drift, spread = (rate - volatility**2 / 2) * years, volatility * math.sqrt(years)
        done, total, squares = 0, 0.0, 0.0
        while done < paths:
            drawn = min(_TOGETHER, paths - done)
            ends = spot * np.exp(drift + spread * chance.standard_normal(drawn))
            worth = math.exp(-rate * years) * np.maximum(ends - strike, 0.0)
            done, total, squares = done + drawn, total + float(worth.sum()), squares + float((worth**2).sum())
            mean = total / done
            error = math.sqrt(max(squares / done - mean**2, 0.0) / done)
            yield {"price": np.array([mean]), "error": np.array([error])}
