"""Applications of single batches (mode `own`): what they are called, what they ask for, which one is made next. Pure.

See docs/design/0022-batch.md. Such an application is known by two things that no user can write: a name that is kept
for it, and the id of its batch in its spec.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from keeper.changes import Change
from keeper.phase import derive
from keeper.picture import AppState
from keeper.quota import exceeded
from keeper.revisions import Request, mark_deleting, store
from keeper.world import World
from serving._proto import batch_pb2, records_pb2
from serving.batch.orders.batch import APPLICATION, CANCEL, ORDER, SKEW_S, STATUS, Batch, ends_at, seconds
from serving.batch.runner.schedule import Candidate, in_turn
from serving.errors import FailedPrecondition, InvalidArgument
from serving.stamps import stamp
from serving.store.keys import AppKey
from serving.validation import validate_spec

DEPLOYMENT: Final = "runner"
AUTHOR: Final = "keeper"
NOTE_PERIOD_S: Final = 2.0  # what an application waits for changes all the time; its batch is not rewritten as often
_KEPT: Final = re.compile(r"batch-[0-9a-f]{32}")
_ID: Final = re.compile(r"batch_([0-9a-f]{32})")
Name = tuple[str, str]  # namespace and id of a batch


@dataclass(frozen=True, slots=True)
class OwnBatches:
    """What the application of a batch of mode `own` asks for, and how many of them there may be at once.

    Its one runner has `cpus` and `memory_bytes` (0: not requested); `workers` processes send the batch's requests.
    `clusters` are those where the file store is; empty: any. With `most` 0 none is made.
    """

    cpus: float = 0.5
    memory_bytes: int = 0
    workers: int = 1
    clusters: tuple[str, ...] = ()
    most: int = 16
    most_per_namespace: int = 4


@dataclass(frozen=True, slots=True)
class Sight:
    """What a plan reads: the batches of mode `own` that no runner has ended, and every application.

    `doubtful`: batches that are not among them and may yet be, because a record is damaged or the store lacks what it
    held; what runs of them stays. `salt` makes the uids of new applications, and
    is another one each time.
    """

    batches: Mapping[Name, Batch]
    apps: Mapping[AppKey, AppState]
    world: World
    salt: str
    remembered: Mapping[AppKey, AppState] = field(default_factory=dict)
    doubtful: frozenset[Name] = frozenset()


def is_kept_name(name: str) -> bool:
    """Whether only keepers make applications of this name."""
    return _KEPT.fullmatch(name) is not None


def app_key(batch: Name) -> AppKey:
    """Of a batch's own application: `batch-` and the digits of its id."""
    namespace, batch_id = batch
    digits = _ID.fullmatch(batch_id)
    made = digits[1] if digits else hashlib.sha256(batch_id.encode()).hexdigest()[:32]
    return AppKey(namespace, f"batch-{made}")


def batch_of(app: AppState) -> Name | None:
    """The batch that a keeper made the application for; None for one of a user's."""
    if app.spec is None:
        return None
    named = [one.batch.batch_id for one in app.spec.value.spec.deployments if one.batch.batch_id]
    if len(named) != 1 or app_key((app.key.namespace, named[0])) != app.key:
        return None
    return app.key.namespace, named[0]


def spec_of(batch: Name, settings: OwnBatches) -> records_pb2.ApplicationSpec:
    """One runner, which takes this batch alone."""
    key = app_key(batch)
    runner = records_pb2.DeploymentSpec(
        name=DEPLOYMENT,
        resources=records_pb2.Resources(cpus=settings.cpus, memory_bytes=settings.memory_bytes),
        replicas=records_pb2.Replicas(min=1, max=1),
        max_restarts=-1,
        batch=records_pb2.BatchDeployment(
            concurrency=1, namespaces=[batch[0]], workers=settings.workers, batch_id=batch[1]
        ),
    )
    return records_pb2.ApplicationSpec(
        namespace=key.namespace,
        name=key.name,
        placement=records_pb2.PlacementPolicy(clusters=settings.clusters),
        deployments=[runner],
    )


def is_over(batch: Batch, now_s: float) -> bool:
    """Nobody works on it any more. Of what ends by its time only, some seconds later: runners have clocks, too."""
    return ends_at(batch, now_s - SKEW_S) is not None


# ------------------------------------------------------------------------------------------------ what is next


def removals(sight: Sight) -> list[Change]:
    """Applications whose batch has ended, or is gone."""
    changes = []
    for app in sight.apps.values():
        name = batch_of(app)
        if name is None or name in sight.doubtful:
            continue
        batch = sight.batches.get(name)
        if batch is not None and not is_over(batch, sight.world.now_s):
            continue
        change = mark_deleting(app)
        if change:
            change.note("batch-app-deleted", f"{app.key}: batch {name[1]} has ended")
            changes.append(change)
    return changes


def wishes(sight: Sight, settings: OwnBatches) -> list[Change]:
    """Applications to be made, who is next first, each with its note; and notes of those that have to wait."""
    crowd = _Crowd(sight, settings)
    changes = []
    for candidate in _in_turn(sight):
        change = _wish(sight.batches[candidate.key], sight, crowd)
        if change:
            changes.append(change)
    return changes


def census(sight: Sight) -> dict[str, int]:
    """How many unfinished batches have an application, and how many have none yet."""
    candidates = _candidates(sight)
    waiting = sum(one.running_since is None for one in candidates)
    return {"waiting": waiting, "placed": len(candidates) - waiting}


def _in_turn(sight: Sight) -> list[Candidate]:
    """Those with an application, then the others: tenants with the fewest first, in each the nearest deadline."""
    candidates = _candidates(sight)
    return [*(one for one in candidates if one.running_since is not None), *in_turn(candidates, {})]


def _candidates(sight: Sight) -> list[Candidate]:
    """The unfinished ones; those with an application count as running."""
    candidates = []
    for name, batch in sight.batches.items():
        if is_over(batch, sight.world.now_s):
            continue
        order = batch.order
        app = sight.apps.get(app_key(name))
        candidates.append(
            Candidate(
                *name,
                created_at=seconds(order.created_at),
                expires_at=seconds(order.expires_at),
                running_since=0.0 if app is not None and batch_of(app) == name else None,
            )
        )
    return candidates


class _Crowd:
    """The applications of batches that there are, those of this plan included; also of ended ones that still go."""

    def __init__(self, sight: Sight, settings: OwnBatches) -> None:
        self.settings = settings
        self.specs = list(sight.world.specs)
        self._total = 0
        self._by_namespace: dict[str, int] = {}
        self._refused: dict[str, str] = {}  # namespaces that get no more in this plan: it only adds
        for app in sight.apps.values():
            if batch_of(app) is not None:
                self._count(app.key.namespace)

    def refusal(self, batch: Name, world: World) -> str:
        """Why the batch gets no application now; "" if it may have one. All batches ask for the same, so that one
        refusal is good for all of the namespace that still wait."""
        namespace = batch[0]
        if namespace not in self._refused:
            reason = self._refusal(spec_of(batch, self.settings), world)
            if not reason:
                return ""
            self._refused[namespace] = f"waits for an application of its own: {reason}"
        return self._refused[namespace]

    def _refusal(self, spec: records_pb2.ApplicationSpec, world: World) -> str:
        most, here = self.settings.most, self.settings.most_per_namespace
        if most == 0 or here == 0:
            return "this mesh makes none (`batch_own` of its keepers); cancel this batch and order it with mode shared"
        if self._by_namespace.get(spec.namespace, 0) >= here:
            return f"{here} batches of {spec.namespace} have one, the most at once"
        if self._total >= most:
            return f"{most} batches have one, the most at once"
        return exceeded(spec, self.specs, world.quotas)

    def add(self, spec: records_pb2.ApplicationSpec) -> None:
        self._count(spec.namespace)
        self.specs.append(spec)

    def _count(self, namespace: str) -> None:
        self._total += 1
        self._by_namespace[namespace] = self._by_namespace.get(namespace, 0) + 1


def _wish(batch: Batch, sight: Sight, crowd: _Crowd) -> Change:
    key = app_key(batch.name)
    app = sight.apps.get(key) or AppState(key)
    if app.damaged:
        return _noted(batch, Change(), key.name, f"the records of {key} are damaged", sight.world.now_s)
    if batch_of(app) == batch.name:
        return _noted(batch, Change(), key.name, _state(batch, app, sight.world), sight.world.now_s)
    if app.spec is not None:
        text = f"{key} is an application of somebody's, and has the name that this batch needs: delete it"
        return _noted(batch, Change(), "", text, sight.world.now_s)
    refusal = crowd.refusal(batch.name, sight.world)
    if refusal:
        return _noted(batch, Change(), "", refusal, sight.world.now_s)
    return _made(batch, app, spec_of(batch.name, crowd.settings), sight, crowd)


def _made(batch: Batch, app: AppState, spec: records_pb2.ApplicationSpec, sight: Sight, crowd: _Crowd) -> Change:
    """The application, if the batch is as it was read: one that has ended meanwhile gets none."""
    now_s = sight.world.now_s
    uid = hashlib.sha256(f"{sight.salt} {app.key}".encode()).hexdigest()[:32]
    request = Request(spec, uid=uid, now_s=now_s, author=AUTHOR, note=f"of batch {batch.id}, mode own")
    try:
        change = store(request, app, sight.remembered.get(app.key, app)).change
    except FailedPrecondition as error:  # what is remembered is being deleted
        return _noted(batch, Change(), "", error.message, now_s)
    for part, revision in (
        (ORDER, batch.order_revision),
        (STATUS, batch.status_revision),
        (CANCEL, batch.cancel_revision),
    ):
        change.expects[batch.key(part)] = revision
    change.note("batch-app-made", f"{app.key}: batch {batch.id} gets an application of its own")
    crowd.add(spec)
    return _noted(batch, change, app.key.name, "", now_s, at_once=True)


def _state(batch: Batch, app: AppState, world: World) -> str:
    """What a batch with an application waits for; "" once a runner has it."""
    if batch.claim is not None or app.spec is None:
        return ""
    if app.spec.value.deleting:
        return f"{app.key} is being deleted; it is made again when it is gone"
    decision = app.decision.value if app.decision else None
    status = app.status.value if app.status else None
    phase, message = derive(app.spec.value, decision, status, world.liveness_by_name())
    if phase != records_pb2.READY:
        return message
    failure = batch.status.last_failure if batch.status is not None else ""
    return f"its runner is ready and has not taken it: {failure or 'its log says why'}"


def _noted(batch: Batch, change: Change, name: str, message: str, now_s: float, *, at_once: bool = False) -> Change:
    """`change` with what is to be told of the batch, if that is news."""
    there = batch.application
    if there is not None and (there.name, there.message) == (name, message):
        return change
    if there is not None and not at_once and 0 <= now_s - seconds(there.updated_at) < NOTE_PERIOD_S:
        return change
    note = batch_pb2.BatchApplication(name=name, message=message, updated_at=stamp(now_s))
    change.puts[batch.key(APPLICATION)] = note
    change.expects[batch.key(APPLICATION)] = batch.application_revision
    change.expects[batch.key(ORDER)] = batch.order_revision
    return change


def check_template(settings: OwnBatches) -> None:
    """Raises `InvalidArgument` for values that no application could be made with."""
    spec = spec_of(("default", "batch_"), settings)
    spec.deployments[0].batch.batch_id = ""
    try:
        validate_spec(spec)
    except InvalidArgument as error:
        raise InvalidArgument(f"batch_own: {error.message}") from error
