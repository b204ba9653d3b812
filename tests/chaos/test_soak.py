"""Random `kill -9` of everything that may die, for minutes, under traffic: no request fails, nothing is left broken.

`MESH_SOAK_S` says for how long (600 by default), `MESH_SOAK_SEED` which victims; the seed is printed.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from typing import Final

import pytest

from serving import MeshClient
from serving.errors import MeshError
from serving.store.keys import AppKey
from tests.support.census import assert_one_copy_stays
from tests.support.mesh import RunningMesh
from tests.support.traffic import Traffic
from tests.support.waiting import eventually

SOAK_S: Final = float(os.environ.get("MESH_SOAK_S", "600"))
SEED: Final = int(os.environ.get("MESH_SOAK_SEED", str(random.SystemRandom().randrange(10**6))))
PAUSE_S: Final = (0.0, 4.0)  # between one recovery and the next kill
APP = AppKey("default", "digits")

pytestmark = [pytest.mark.long, pytest.mark.ray, pytest.mark.timeout(SOAK_S + 600)]


def test_soak(mesh: RunningMesh, digits: MeshClient, expected: list[int]) -> None:
    chance, killed = random.Random(SEED), Counter[str]()
    print(f"\nMESH_SOAK_SEED={SEED}, {SOAK_S:g} s")
    until = time.monotonic() + SOAK_S
    with Traffic(mesh.connection, expected) as traffic:
        while time.monotonic() < until:
            kind = chance.choice(("replica", "master", "agent", "keeper"))
            pid = victim(mesh, digits, kind, chance)
            os.kill(pid, signal.SIGKILL)
            killed[kind] += 1
            # One replica of two must be there: only what recovers is hit again, everything else may be down together.
            if kind == "replica":
                wait_two(digits, without=pid)
            traffic.wait_for(10)
            traffic.check()
            time.sleep(chance.uniform(*PAUSE_S))
        wait_two(digits, without=0)
        traffic.wait_for(100)
        assert_one_copy_stays(mesh, digits, seconds=10)
    print(
        f"killed {dict(killed)}, {traffic.outcome.right} answers, longest gap {traffic.outcome.longest_gap_s():.2f} s"
    )
    traffic.check()


def victim(mesh: RunningMesh, client: MeshClient, kind: str, chance: random.Random) -> int:
    """A process of that kind which lives; waits until there is one."""

    def look() -> int | None:
        try:
            cluster = client.status("digits").cluster
            if kind == "replica":
                return chance.choice([endpoint.pid for endpoint in client.endpoints("digits")])
        except (MeshError, IndexError):
            return None
        if kind == "master":
            return mesh.master_pid(cluster, APP)
        identity = mesh.process("keeper-0" if kind == "keeper" else f"agent-{cluster}").identity
        return identity.pid if identity.alive() else None

    found = eventually(look, timeout_s=90, what=f"a {kind} that lives")
    assert found is not None
    return found


def wait_two(client: MeshClient, *, without: int) -> None:
    """Until discovery has two replicas, neither of them the process that was killed."""

    def look() -> bool:
        pids = {endpoint.pid for endpoint in client.endpoints("digits")}
        return len(pids) == 2 and without not in pids

    eventually(look, timeout_s=90, what="two replicas")
