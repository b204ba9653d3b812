"""Everything that changes an application, one after the other under traffic: no request of the SDK fails or is wrong.

`MESH_CHANGES` says how many changes of each kind the long run makes (20 by default), `MESH_SOAK_SEED` in which order;
the seed is printed.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import pytest

from serving import (
    Application,
    Canary,
    CanaryChecks,
    CanaryStep,
    MeshClient,
    ProxyDeployment,
    Replicas,
    Resources,
    Rollout,
    TritonDeployment,
)
from serving.errors import MeshError
from tests.support.mesh import DIGITS, RunningMesh
from tests.support.traffic import Traffic
from tests.support.waiting import eventually

CHANGES: Final = int(os.environ.get("MESH_CHANGES", "20"))
SEED: Final = int(os.environ.get("MESH_SOAK_SEED", str(random.SystemRandom().randrange(10**6))))
NAME: Final = "changing"
PATIENCE_S: Final = 180.0

pytestmark = [pytest.mark.ray]


@dataclass
class Changing:
    """The application as it is wanted now, and what can be done to it."""

    mesh: RunningMesh
    client: MeshClient
    chance: random.Random
    version: int = 1
    replicas: int = 2
    probes: int = 2
    rollout: Rollout = field(default_factory=Rollout)

    def application(self) -> Application:
        small = Resources(cpus=0.1)
        digits = TritonDeployment(
            "digits",
            DIGITS.parent / "models",
            resources=small,
            replicas=Replicas(self.replicas),
            env={"VERSION": str(self.version)},
            rollout=self.rollout,
        )
        policy = {"probes": self.probes}
        return Application(NAME, [digits, ProxyDeployment("grpc", policy, resources=small, replicas=Replicas(2))])

    def deploy(self) -> None:
        self.client.deploy(self.application(), wait=True, timeout_s=PATIENCE_S)

    def update(self) -> None:
        self.version += 1
        self.deploy()

    def another_policy(self) -> None:
        self.probes = 5 - self.probes
        self.deploy()

    def scale(self) -> None:
        self.replicas = 5 - self.replicas
        self.client.scale(NAME, "digits", least=self.replicas, most=self.replicas, wait=True, timeout_s=PATIENCE_S)

    def undo(self) -> None:
        """Goes back in the middle of a rollout, and forth again."""
        self.version += 1
        self.client.deploy(self.application())
        self.client.rollback(NAME, wait=True, timeout_s=PATIENCE_S)
        self.deploy()

    def canary(self) -> None:
        """To all requests, by steps that end by themselves."""
        checks = CanaryChecks(min_requests=5)
        self.rollout = Rollout(canary=Canary((CanaryStep(20, 0.5), CanaryStep(60, 0.5)), checks=checks))
        self.update()
        self.rollout = Rollout()

    def canary_taken_back(self) -> None:
        """Half of the requests go to the new revision when it is undone."""
        self.rollout = Rollout(canary=Canary((CanaryStep(50),)))
        self.version += 1
        self.client.deploy(self.application())

        def half() -> bool:
            told = self.client.status(NAME).deployments
            return any(one.canary.phase == "stepping" and one.canary.weight == 50 for one in told)

        eventually(half, timeout_s=PATIENCE_S, what="half of the requests at the new revision")
        self.client.rollback(NAME, wait=True, timeout_s=PATIENCE_S)
        self.rollout = Rollout()
        self.version -= 1

    def kill_replica(self) -> None:
        self._kill("direct", self.replicas)

    def kill_proxy(self) -> None:
        self._kill("proxy", 2)

    def restart_etcd(self) -> None:
        self.mesh.wait_replaced(self.mesh.kill("etcd"))
        self.wait_endpoints("direct", self.replicas, without=0)

    def kill_keeper(self) -> None:
        self.mesh.wait_replaced(self.mesh.kill("keeper-0"))

    def _kill(self, role: str, count: int) -> None:
        self.wait_endpoints(role, count, without=0)
        victim = self.chance.choice(self.client.endpoints(NAME, role=role)).pid
        os.kill(victim, signal.SIGKILL)
        self.wait_endpoints(role, count, without=victim)

    def wait_endpoints(self, role: str, count: int, *, without: int) -> None:
        def look() -> bool:
            try:
                pids = {endpoint.pid for endpoint in self.client.endpoints(NAME, role=role)}
            except MeshError:
                return False
            return len(pids) == count and without not in pids

        eventually(look, timeout_s=PATIENCE_S, what=f"{count} endpoints of role {role} without {without}")

    def kinds(self) -> list[Callable[[], None]]:
        changes = [self.update, self.another_policy, self.scale, self.undo, self.canary, self.canary_taken_back]
        return [*changes, self.kill_replica, self.kill_proxy, self.restart_etcd, self.kill_keeper]


def change_all(mesh: RunningMesh, client: MeshClient, expected: list[int], *, times: int) -> None:
    """Each kind of change so many times, in a random order, with traffic straight to replicas and through proxies."""
    print(f"\nMESH_SOAK_SEED={SEED}, {times} of each kind")
    changing = Changing(mesh, client, random.Random(SEED))
    changing.deploy()
    changing.wait_endpoints("proxy", 2, without=0)
    order = changing.kinds() * times
    changing.chance.shuffle(order)
    direct = Traffic(mesh.connection, expected, application=NAME)
    proxied = Traffic(mesh.connection, expected, application=NAME, via="proxy")
    try:
        with direct, proxied:
            for change in order:
                print(f"  {change.__name__}")
                change()
                for traffic in (direct, proxied):
                    traffic.wait_for(10)
                    traffic.check()
    finally:
        client.delete(NAME, wait=True)
    for traffic in (direct, proxied):
        traffic.check()
        print(f"{traffic.outcome.right} answers, longest gap {traffic.outcome.longest_gap_s():.2f} s")


@pytest.mark.timeout(900)
def test_no_request_notices_a_change(mesh: RunningMesh, client: MeshClient, expected: list[int]) -> None:
    change_all(mesh, client, expected, times=1)


@pytest.mark.long
@pytest.mark.timeout(600 + 240 * CHANGES)
def test_no_request_notices_many_changes(mesh: RunningMesh, client: MeshClient, expected: list[int]) -> None:
    change_all(mesh, client, expected, times=CHANGES)
