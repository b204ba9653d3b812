"""What the service does to applications: read, deploy, delete, roll back. Errors are those of `serving.errors`."""

from __future__ import annotations

import uuid
from collections.abc import Callable

from keeper import views
from keeper.changes import Change
from keeper.commit import commit
from keeper.mirror import Mirror
from keeper.own_apps import is_kept_name
from keeper.picture import AppState, Picture
from keeper.placement import Current, NoFit
from keeper.plan import choose, decision_of
from keeper.quota import exceeded
from keeper.revisions import (
    Request,
    Stored,
    kept_revisions,
    mark_deleting,
    mark_paused,
    mark_promoted,
    revision_of,
    store,
)
from keeper.world import World
from serving._proto import keeper_pb2 as api
from serving._proto import records_pb2 as pb
from serving.control import Clock
from serving.errors import Conflict, InvalidArgument, NotFound, ResourceExhausted, StoreUnavailable
from serving.spelling import closest_match
from serving.store import EtcdClient, Op, OutcomeUnknown, keys
from serving.store.keys import AppKey
from serving.types import DEFAULT_NAMESPACE, NAME_RULE, is_name
from serving.validation import validate_spec
from serving.validation.traffic import MAX_STEPS

MAX_ATTEMPTS = 20
CATCH_UP_S = 5.0


class Applications:
    """Reads go to the store and are linearizable; while it is away they come from memory and say so."""

    def __init__(self, client: EtcdClient, mirror: Mirror, world: Callable[[], World], clock: Clock) -> None:
        self._client = client
        self._mirror = mirror
        self._world = world
        self._clock = clock

    async def deploy(self, request: api.DeployRequest) -> api.DeployResponse:
        """Stores the spec as a new revision unless it is the current one already."""
        spec = pb.ApplicationSpec()
        spec.CopyFrom(request.spec)
        spec.namespace = spec.namespace or DEFAULT_NAMESPACE
        validate_spec(spec)
        if is_kept_name(spec.name):
            raise InvalidArgument(f"name: {spec.name} is kept for the application of a single batch: take another name")
        wish = Request(
            spec,
            uid=uuid.uuid4().hex,
            now_s=self._clock.now(),
            author=request.author,
            if_revision=request.if_revision,
        )
        if request.dry_run:
            return await self._dry_run(wish)
        return await self._store(AppKey(spec.namespace, spec.name), wish)

    async def rollback(self, request: api.RollbackRequest) -> api.DeployResponse:
        """Stores the spec of a kept revision as a new one."""
        key = app_key(request.namespace, request.name)
        found = await self.read(key)
        if found.spec is None:
            raise self._unknown(key)
        number = request.to_revision
        old = revision_of(found, number).value
        validate_spec(old.spec)
        note = f"rollback to revision {number}"
        now_s = self._clock.now()
        wish = Request(
            old.spec,
            uid=uuid.uuid4().hex,
            now_s=now_s,
            author=request.author,
            note=note,
            if_revision=request.if_revision,
            resume=True,
        )
        return await self._store(key, wish)

    async def pause(self, key: AppKey, paused: bool) -> api.PauseRolloutResponse:
        """Holds the rollout of the current revision, or lets it go on; again is harmless."""
        for _ in range(MAX_ATTEMPTS):
            found = await self.read(key)
            if found.spec is None:
                raise self._unknown(key)
            change = mark_paused(found, paused)
            if not change or await self._commit(change):
                return api.PauseRolloutResponse(revision=found.spec.value.revision, changed=bool(change))
        raise _busy(key)

    async def promote(self, request: api.PromoteRolloutRequest) -> api.PromoteRolloutResponse:
        """Lets canaries pass steps; again is harmless. Raises `InvalidArgument` for an impossible number of steps."""
        key = app_key(request.namespace, request.name)
        if not 1 <= request.steps <= MAX_STEPS:
            raise InvalidArgument(f"steps: {request.steps} is out of range: 1 to {MAX_STEPS}")
        for _ in range(MAX_ATTEMPTS):
            found = await self.read(key)
            if found.spec is None:
                raise self._unknown(key)
            change = mark_promoted(found, request.revision, request.steps)
            if not change or await self._commit(change):
                return api.PromoteRolloutResponse(changed=bool(change))
        raise _busy(key)

    async def delete(self, key: AppKey) -> None:
        """Marks the application for deletion; again is harmless."""
        for _ in range(MAX_ATTEMPTS):
            found = await self._read_whole(key)
            if found.spec is None:
                raise self._unknown(key)
            change = mark_deleting(found)
            if not change or await self._commit(change):
                return
        raise _busy(key)

    async def get(self, key: AppKey) -> tuple[api.ApplicationView, float]:
        """The application's view and for how long it has been stale (0.0: it is not)."""
        stale_s, note = 0.0, ""
        try:
            found = await self.read(key)
        except StoreUnavailable as error:
            stale_s = self._memory_age(error)
            found, note = self.remembered(key), self._stale_note()
        if found.spec is None and key in self._mirror.remembered:
            found, note = self._mirror.remembered[key], "the store lost this application and is being restored"
        if found.spec is None:
            raise self._unknown(key)
        return views.application(found, self._world().liveness_by_name(), note=note), stale_s

    async def list(self, namespace: str) -> tuple[list[api.ApplicationView], float]:
        """All applications of the namespace ("" for all), sorted, and for how long the answer has been stale."""
        stale_s, note = 0.0, ""
        try:
            snapshot = await self._client.get_prefix(f"{keys.APPS}{namespace}/" if namespace else keys.APPS)
            picture = Picture(snapshot.kvs, snapshot.revision)
        except StoreUnavailable as error:
            stale_s = self._memory_age(error)
            picture, note = self._mirror.picture, self._stale_note()
        apps = {**self._mirror.remembered, **{key: app for key, app in picture.apps.items() if app.spec}}
        liveness = self._world().liveness_by_name()
        found = [
            views.application(apps[key], liveness, note=note)
            for key in sorted(apps)
            if apps[key].spec is not None and namespace in ("", key.namespace)
        ]
        return found, stale_s

    async def revisions(self, key: AppKey) -> api.ListRevisionsResponse:
        """The kept revisions, newest first."""
        found = await self.read(key)
        if found.spec is None:
            raise self._unknown(key)
        kept = kept_revisions(found)
        return api.ListRevisionsResponse(revisions=[kept[number].value for number in sorted(kept, reverse=True)])

    def _unknown(self, key: AppKey) -> NotFound:
        """Names the application that was probably meant, of the namespace before others."""
        text = f"there is no application {key}"
        known = [app for app, state in self._mirror.picture.apps.items() if state.spec is not None]
        here = closest_match(key.name, sorted(app.name for app in known if app.namespace == key.namespace))
        elsewhere = sorted(str(app) for app in known if app.name == key.name)
        meant = f"{key.namespace}/{here}" if here else next(iter(elsewhere), "")
        return NotFound(f"{text}; did you mean `{meant}`?" if meant else text)

    async def read(self, key: AppKey) -> AppState:
        """The application's own keys as they are in the store now. Raises `DataLoss` for a damaged spec."""
        result = await self._client.txn(
            (), (Op.get_prefix(keys.app(key)), Op.get_prefix(f"{keys.DELETED}{key.namespace}/{key.name}/"))
        )
        picture = Picture((kv for item in result.results for kv in item.kvs), result.revision)
        return picture.app(key)

    async def catch_up(self, namespace: str) -> None:
        """Waits until the mirror knows everything that is in the store now; returns at once while the store is away."""
        try:
            snapshot = await self._client.get_prefix(f"{keys.APPS}{namespace}/" if namespace else keys.APPS)
        except StoreUnavailable:
            return
        await self._mirror.reach(max((kv.mod_revision for kv in snapshot.kvs), default=0), CATCH_UP_S)

    def remembered(self, key: AppKey) -> AppState:
        """What this keeper knows without asking the store."""
        known = self._mirror.picture.app(key)
        return known if known.spec is not None else self._mirror.remembered.get(key, known)

    async def _read_whole(self, key: AppKey) -> AppState:
        """With the work orders, which this keeper follows: their keys begin with the cluster."""
        found = await self.read(key)
        found.placements.update(self._mirror.picture.app(key).placements)
        return found

    async def _store(self, key: AppKey, wish: Request) -> api.DeployResponse:
        for _ in range(MAX_ATTEMPTS):
            stored = store(wish, await self._read_whole(key), self.remembered(key))
            if stored.changed:
                reason = exceeded(wish.spec, self._world().specs, self._world().quotas)
                if reason:
                    raise ResourceExhausted(reason)
            if not stored.changed or await self._commit(stored.change, key, stored):
                return api.DeployResponse(
                    revision=stored.stored.revision, changed=stored.changed, uid=stored.stored.uid
                )
        raise _busy(key)

    async def _dry_run(self, wish: Request) -> api.DeployResponse:
        """Where it would go, if it were stored now."""
        key = AppKey(wish.spec.namespace, wish.spec.name)
        found = await self._read_whole(key)
        stored = store(wish, found, self.remembered(key))
        placed = decision_of(found, stored.stored.uid)
        current = None
        if placed is not None and placed.value.cluster:
            order = found.placements.get(placed.value.cluster)
            current = Current(placed.value.cluster, order.value.stored.spec if order else wish.spec)
        answer = choose(stored.stored, current, placed, self._world())
        decision = pb.Decision(uid=stored.stored.uid, revision=stored.stored.revision)
        if isinstance(answer, NoFit):
            decision.why = "fits on no cluster"
            decision.reasons.extend(pb.ClusterReason(cluster=name, reason=why) for name, why in answer.reasons)
        else:
            decision.cluster, decision.why = answer.cluster, answer.why
            decision.generation = placed.value.generation if answer.stays and placed else found.generation() + 1
        return api.DeployResponse(
            revision=stored.stored.revision, changed=stored.changed, uid=stored.stored.uid, would_place=decision
        )

    async def _commit(self, change: Change, key: AppKey | None = None, stored: Stored | None = None) -> bool:
        """False when somebody else wrote in between. A transaction whose end is unknown is looked up."""
        try:
            revision = await commit(self._client, change)
        except OutcomeUnknown:
            if key is None or stored is None:
                return False  # marking twice is harmless
            found = await self.read(key)
            return found.spec is not None and found.spec.value == stored.stored
        if revision is None:
            return False
        self._mirror.committed(change, revision)
        return True

    def _memory_age(self, error: StoreUnavailable) -> float:
        if not self._mirror.synced.is_set():
            raise error
        return max(0.001, self._mirror.stale_for_s)

    def _stale_note(self) -> str:
        return f"last known state, the store has not answered for {self._mirror.stale_for_s:.0f} s"


def app_key(namespace: str, name: str) -> AppKey:
    """The key for names as a request carries them. Raises `InvalidArgument`."""
    namespace = namespace or DEFAULT_NAMESPACE
    for field, value in (("namespace", namespace), ("name", name)):
        if not is_name(value):
            raise InvalidArgument(f"{field}: {value[:80]!r} is not a valid name ({NAME_RULE})")
    return AppKey(namespace, name)


def _busy(key: AppKey) -> Conflict:
    return Conflict(f"{key} is being changed by others all the time; try again")
