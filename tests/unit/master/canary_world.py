"""A pure world with a canary: traffic that follows the stored record, and a master that may die at any moment."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from random import Random

from master_world import APP, World

from serving._proto import records_pb2 as pb
from serving.master.canaries import Canaries, Picture
from serving.master.model import Action, Load, Report, Situation
from serving.master.names import ReplicaName
from serving.master.order import goals
from serving.routing import Place, Traffic

DEPLOYMENT = "digits"
BOUNDS = (0.01, 0.1, 1.0)


@dataclass(frozen=True)
class Quality:
    """Of a revision: the share of its answers that fail, and the time of each."""

    failing: float = 0.0
    takes_s: float = 0.005


@dataclass
class CanaryWorld(World):
    """Specs differ by revision, but for those in `same_content`, which maps revisions to what they are a copy of."""

    order: pb.Placement = field(default_factory=pb.Placement)
    specs: dict[int, pb.ApplicationSpec | None] = field(default_factory=dict)
    stored: pb.TrafficRecord | None = None
    store_away: bool = False
    canaries: Canaries = field(default_factory=Canaries)
    quality: dict[int, Quality] = field(default_factory=dict)
    loads: dict[int, Load] = field(default_factory=dict)  # by pid
    told: pb.ApplicationStatus = field(default_factory=pb.ApplicationStatus)
    random: Random = field(default_factory=lambda: Random(1))

    def deploy(self, revision: int, content: int, *, replicas: int = 4, canary: pb.Canary | None = None) -> None:
        spec = pb.DeploymentSpec(name=DEPLOYMENT, env={"CONTENT": str(content)}, drain_timeout_s=10.0)
        spec.replicas.min = spec.replicas.max = replicas
        if canary is not None:
            spec.rollout.canary.CopyFrom(canary)
        self.order = pb.Placement(generation=self.generation, cluster="east")
        self.order.stored.revision, self.order.stored.uid = revision, "u"
        self.order.stored.spec.deployments.append(spec)
        self.order.stored.spec.namespace, self.order.stored.spec.name = APP.namespace, APP.name
        self.specs[revision] = self.order.stored.spec

    def look(self) -> Situation:
        running = {row.revision for row in self.rows.values()} | self.canaries.revisions
        self.goals = goals(self.order, running, self.specs)
        situation = super().look()
        picture = Picture(
            self.order,
            self.stored,
            situation.replicas,
            situation.crash_loops,
            self.specs,
            self._report,
            self.now,
            self.now,
        )
        allowed, record = self.canaries.look(situation.goals, picture)
        self.told = pb.ApplicationStatus(deployments=[pb.DeploymentStatus(name=DEPLOYMENT)])
        self.canaries.tell(self.told)
        self.wanted = record
        return replace(situation, goals=allowed)

    def write(self) -> None:
        """What the master wants to be stored is."""
        if not self.store_away:
            self.stored = self.wanted

    def forget(self) -> None:
        super().forget()
        self.canaries = Canaries()

    def _report(self, name: ReplicaName) -> Report | None:
        actor = self.actors.get(name)
        if actor is None or actor.process is None or actor.process.hung:
            return None
        load = self.loads.get(actor.process.pid, Load(within=tuple((bound, 0) for bound in BOUNDS)))
        return replace(actor.process.report(), load=load)

    # ---- traffic ----------------------------------------------------------------------------------------------------

    def serve(self, requests: int) -> Counter[int]:
        """So many requests go to ready replicas as the stored record says; answers how many by content's revision."""
        traffic = Traffic(self.stored.splits if self.stored is not None else ())
        ready = {
            name: actor.process
            for name, actor in self.actors.items()
            if actor.process is not None and actor.process.state == "ready"
        }
        served: Counter[int] = Counter()
        for _ in range(requests):
            sides = traffic.sides("", "m", lambda _: "", self.random.random)
            places: dict[Place, list[ReplicaName]] = {}
            for name, process in ready.items():
                endpoint = pb.Endpoint(deployment=DEPLOYMENT, revision=process.serves)
                places.setdefault(traffic.place(sides, endpoint), []).append(name)
            allowed = places.get(Place.ON_SIDE) or places.get(Place.SPARE)
            assert allowed, "a request finds nobody"
            name = self.random.choice(allowed)
            process = ready[name]
            served[process.serves] += 1
            self.loads[process.pid] = self._answered(process.pid, self.quality.get(process.serves, Quality()))
        return served

    def _answered(self, pid: int, quality: Quality) -> Load:
        before = self.loads.get(pid, Load(within=tuple((bound, 0) for bound in BOUNDS)))
        within = tuple((bound, count + (quality.takes_s <= bound)) for bound, count in before.within)
        failed = self.random.random() < quality.failing
        return replace(before, requests=before.requests + 1, failed=before.failed + failed, within=within)

    # ---- time -------------------------------------------------------------------------------------------------------

    def tick(self, *, requests: int = 40) -> Counter[int]:
        """One second: the master acts, its record is written, replicas go on, requests come."""
        for action in self.actions():
            self.apply_one(action)
        self.write()
        self.everything_goes_on()
        self.now += 1.0
        return self.serve(requests) if requests else Counter()

    def act_in_part(self, count: int) -> tuple[Action, ...]:
        """Only the first so many of the planned actions."""
        planned = self.actions()[:count]
        for action in planned:
            self.apply_one(action)
        return planned

    def start(self, replicas: int = 4, canary: pb.Canary | None = None) -> None:
        self.deploy(1, 1, replicas=replicas, canary=canary)
        for _ in range(10):
            self.tick(requests=0)
        assert len(self.serving(DEPLOYMENT)) == replicas

    @property
    def canary(self) -> pb.CanaryStatus:
        return self.told.deployments[0].canary

    @property
    def weight(self) -> float:
        """Percent of the requests that the stored record gives the new revision; -1 without a canary."""
        return self.stored.canaries[0].weight / 100 if self.stored is not None and self.stored.canaries else -1.0

    def revisions(self) -> list[int]:
        return sorted(name.revision for name in self.serving(DEPLOYMENT))


def rules(*weights: float, for_s: float = 10.0, **checks: float) -> pb.Canary:
    """Steps that end by time, but for weights below 0, which wait to be promoted."""
    made = pb.Canary(steps=[pb.CanaryStep(weight=abs(one), for_s=for_s, manual=one < 0) for one in weights])
    made.checks.CopyFrom(pb.CanaryChecks(**checks))  # type: ignore[arg-type]
    return made


def tried(canary: pb.Canary, *, seconds: int, replicas: int = 4, **quality: Quality) -> CanaryWorld:
    """A world with revision 1 everywhere, in which revision 2 has been tried for so long; `r2` is its quality."""
    world = CanaryWorld(())
    world.start(replicas, canary)
    world.quality = {int(name.removeprefix("r")): found for name, found in quality.items()}
    world.deploy(2, 2, replicas=replicas, canary=canary)
    for _ in range(seconds):
        world.tick()
    return world
