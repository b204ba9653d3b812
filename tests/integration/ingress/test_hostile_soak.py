"""Hostile and valid traffic together, for an hour, against one server: no crash, no wrong answer, memory flat.

`MESH_HOSTILE_SOAK_S` says for how long (3600 by default), `MESH_SOAK_SEED` what happens; the seed is printed.

The rule for memory: the first quarter of the time warms up. The median of the resident memory over the last quarter may
be at most a tenth, and 24 MiB, above the median over the second quarter. The server has a limit of requests: what calls
that are reset at once leave in Triton's queues would else decide how high memory goes, and it does not come down again.
"""

from __future__ import annotations

import os
import random
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from typing import Final

import psutil
import pytest

from tests.integration.ingress.conftest import StartIngress
from tests.integration.ingress.kserve_servers import Ingress, gauge, in_flight
from tests.integration.ingress.soak_traffic import FULL, HOSTILE, VALID, Act
from tests.support.callers import Callers
from tests.support.waiting import eventually

SOAK_S: Final = float(os.environ.get("MESH_HOSTILE_SOAK_S", "3600"))
SEED: Final = int(os.environ.get("MESH_SOAK_SEED", str(random.SystemRandom().randrange(10**6))))
MODELS: Final = ("id_fp32", "slow", "repeat")
MIB: Final = 1 << 20
MAX_REQUESTS: Final = 500
EACH: Final = 3  # threads of valid traffic, and of hostile

pytestmark = [pytest.mark.long, pytest.mark.timeout(SOAK_S + 300)]


class Traffic(Callers):
    """Threads that do what chance says until the end, and note what went wrong."""

    def __init__(self, server: Ingress) -> None:
        self._kinds: Sequence[tuple[Act, ...]] = [VALID] * EACH + [HOSTILE] * EACH
        super().__init__(len(self._kinds))
        self._server = server
        self.done = Counter[str]()
        self.wrong: list[str] = []
        self.refused = 0

    def call(self, number: int) -> None:
        chance = random.Random(SEED * 100 + number)
        while not self.over.is_set():
            act = chance.choice(self._kinds[number])
            failure: Exception | None = None
            try:
                act(self._server, chance)
            except Exception as error:  # noqa: BLE001 - whatever it is, it must not happen
                failure = error
            with self.lock:
                self.done[act.__name__] += 1
                if failure is not None and FULL in str(failure):
                    self.refused += 1
                elif failure is not None:
                    self.wrong.append(f"{act.__name__}: {failure!r}"[:600])


def resident(server: Ingress) -> float:
    return float(psutil.Process(server.process.pid).memory_info().rss / MIB)


def test_hostile_and_valid_traffic(start_ingress: StartIngress) -> None:
    limits = (f"--max-requests={MAX_REQUESTS}", f"--max-message-bytes={8 * MIB}")
    server = start_ingress(*[f"--model={name}" for name in MODELS], "--event-loops=2", *limits)
    print(f"\nMESH_SOAK_SEED={SEED}, {SOAK_S:g} s")
    memory: list[float] = []
    started = time.monotonic()
    with Traffic(server) as traffic:
        while time.monotonic() - started < SOAK_S and server.alive() and not traffic.wrong:
            time.sleep(min(1.0, SOAK_S / 100))
            memory.append(resident(server))
    assert server.alive(), server.log.read_text()[-4000:]
    print(f"{sum(traffic.done.values())} acts: {dict(traffic.done)}")
    assert not traffic.wrong, traffic.wrong[:5]
    print(f"{traffic.refused} were refused by a full server")
    assert traffic.refused < sum(traffic.done[act.__name__] for act in VALID) / 10
    print(f"{in_flight(server)} requests in flight when the traffic ends")
    quarter = len(memory) // 4
    early, late = (statistics.median(part) for part in (memory[quarter : 2 * quarter], memory[-quarter:]))
    print(f"memory {memory[0]:.0f} MiB at first, {early:.0f} in the second quarter, {late:.0f} in the last")
    assert late <= early * 1.1 + 24, "memory grows"
    server.channel.close()
    eventually(lambda: gauge(server, "mesh_rpc_calls") == 0, timeout_s=90, what="no open call")
    eventually(lambda: in_flight(server) == 0, timeout_s=30, what="no request in flight")
    eventually(lambda: gauge(server, "mesh_rpc_connections") == 0, timeout_s=90, what="no open connection")
