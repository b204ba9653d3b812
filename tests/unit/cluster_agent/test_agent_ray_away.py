"""Since when Ray does not answer: a machine that stood still has not asked it."""

from __future__ import annotations

from serving.cluster_agent.agent import Agent
from serving.cluster_agent.config import AgentConfig
from serving.cluster_agent.model import ClusterFacts
from serving.config import EtcdConfig
from serving.control import ManualClock
from serving.errors import Unavailable


class Ray:
    """Answers what it is asked for, or not, after the clock has moved."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self.away = False
        self.takes_s = 0.0

    async def facts(self) -> ClusterFacts:
        self._clock.advance(self.takes_s)
        if self.away:
            raise Unavailable("away")
        return ClusterFacts((), ())


async def test_time_counts_from_the_first_look_without_an_answer() -> None:
    clock = ManualClock()
    ray = Ray(clock)
    config = AgentConfig(cluster="east", ray_address="h:1", etcd=EtcdConfig(endpoints=("127.0.0.1:1",)))
    agent = Agent(config, "id", ray, clock=clock)  # type: ignore[arg-type]
    await agent._look()
    clock.advance(60)
    assert agent._ray_away_s() == 0.0, "it was not asked"
    ray.away, ray.takes_s = True, 15.0
    await agent._look()
    assert 0.0 < agent._ray_away_s() < config.ray_away_s, "the machine stood still"
    ray.takes_s = 1.0
    for _ in range(3):
        await agent._look()
    assert agent._ray_away_s() > config.ray_away_s
    ray.away = False
    await agent._look()
    assert agent._ray_away_s() == 0.0
    await agent._client.close()
