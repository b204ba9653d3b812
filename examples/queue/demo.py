"""Requests that wait at the broker of app.yaml: submits, waits, follows one while it is computed, and cancels it."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from statistics import NormalDist
from typing import Any, Final

import numpy as np

from serving import Connection, MeshClient
from serving.sdk.blocking_queue import BlockingTicket

APP: Final = "pricing"
SPOT, RATE, VOLATILITY, YEARS = 100.0, 0.03, 0.2, 1.0
STRIKES: Final = range(80, 121, 5)
_SHORT: Final = 50_000  # paths
_LONG: Final = 1_000_000_000
_SURE: Final = 5.0  # standard errors
_RESULT_S: Final = 300.0


def exact(strike: float) -> float:
    """By the formula of Black and Scholes."""
    spread = VOLATILITY * YEARS**0.5
    above = (np.log(SPOT / strike) + RATE * YEARS) / spread + spread / 2
    chance = NormalDist().cdf
    return float(SPOT * chance(above) - strike * np.exp(-RATE * YEARS) * chance(above - spread))


def submit(client: MeshClient, strike: float, paths: int, **options: Any) -> BlockingTicket:
    inputs = {"option": np.array([SPOT, strike, RATE, VOLATILITY, YEARS]), "paths": np.array([paths])}
    return client.submit(APP, "option", inputs, labels={"size": "short" if paths == _SHORT else "long"}, **options)


def followed(ticket: BlockingTicket, strike: float, wanted: float) -> bool:
    """Shows a price while it is computed, until its standard error is `wanted`. Whether it is right then."""
    for part in ticket:
        outputs = part.outputs()
        price, error = float(outputs["price"][0]), float(outputs["error"][0])
        if error <= wanted:
            print(f"strike {strike}: {price:.3f} ± {error:.3f} after {part.number + 1} parts")
            return abs(price - exact(strike)) <= _SURE * error
    return False


def run(client: MeshClient) -> bool:
    """True when all prices are right, and the long request is cancelled."""
    long = submit(client, 100, _LONG, priority="low")
    print(f"submitted: {long.id}, {_LONG:,} paths")
    began = time.perf_counter()
    tickets = {strike: submit(client, strike, _SHORT, idempotency_key=f"strike {strike}") for strike in STRIKES}
    again = submit(client, STRIKES[0], _SHORT, idempotency_key=f"strike {STRIKES[0]}")
    print(f"submitted: {len(tickets)} short ones; the first one again is {again.id}, repeated: {again.repeated}")
    right = again.repeated and again.id == tickets[STRIKES[0]].id
    for strike, ticket in tickets.items():
        outputs: Any = ticket.result(timeout_s=_RESULT_S)  # a list, as the class yields
        (answer,) = outputs
        price, error = float(answer["price"][0]), float(answer["error"][0])
        right &= abs(price - exact(strike)) <= _SURE * error
        print(f"strike {strike}: {price:.3f} ± {error:.3f}, exactly {exact(strike):.3f}")
    print(f"all short ones after {time.perf_counter() - began:.1f} s, and the long one is {long.state()}")
    right &= followed(client.ticket(str(long)), 100, 0.02)  # as another process would that was given its text
    long.cancel()
    print(f"cancelled: {long.id} is {long.state()}")
    return right and long.state() == "CANCELLED"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, help="of a mesh that was started with `mesh up --dir`")
    options = parser.parse_args()
    connection = Connection.local(options.dir) if options.dir else Connection.from_env()
    with MeshClient(connection) as client:
        right = run(client)
    print("all prices are right" if right else "a price is wrong")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
