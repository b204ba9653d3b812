"""Which batches of mode `own` get an application, which ones wait and why, and when an application goes."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from keeper_builders import decision, resources, simple, spec

from keeper.changes import Change
from keeper.config import from_mapping
from keeper.own_apps import (
    NOTE_PERIOD_S,
    Name,
    OwnBatches,
    Sight,
    app_key,
    batch_of,
    census,
    is_kept_name,
    removals,
    spec_of,
    wishes,
)
from keeper.picture import AppState, Versioned
from keeper.quota import Limit, Quotas, exceeded
from keeper.revisions import mark_deleting
from keeper.world import World
from serving._proto import batch_pb2, records_pb2
from serving.batch.orders.batch import APPLICATION, CANCEL, ORDER, SKEW_S, STATUS, Batch
from serving.errors import InvalidArgument, SpecError
from serving.stamps import stamp
from serving.store import keys
from serving.validation import validate_spec
from tests.support.batches import T0, WINDOW_S, order_of

CLAIM = batch_pb2.BatchClaim(runner="r", cluster="east", epoch=1)


def own(number: int = 1, *, namespace: str = "default", created: float = T0, **fields: Any) -> Batch:
    order = order_of(f"batch_{number:032x}", created=created, namespace=namespace, mode="own")
    return Batch(order, order_revision=5, **fields)


class Store:
    """What etcd and the keeper's memory would hold; `apply` makes a change as a transaction does."""

    def __init__(self, *batches: Batch, **world: Any) -> None:
        self.batches = {one.name: one for one in batches}
        self.apps: dict[keys.AppKey, AppState] = {}
        self.now_s = T0
        self.revision = 100
        self.uids: list[str] = []
        self.settings = OwnBatches()
        self.doubtful: frozenset[Name] = frozenset()
        self._world = world

    def sight(self) -> Sight:
        specs = [app.spec.value.spec for app in self.apps.values() if app.spec and not app.spec.value.deleting]
        world = World(self.now_s, (simple("east", 8),), (), tuple(specs), **self._world)
        return Sight(self.batches, self.apps, world, f"salt-{self.revision}", doubtful=self.doubtful)

    def look(self, *, cut: int = 1 << 30) -> list[Change]:
        """One look, of which the first `cut` transactions are made: what a keeper does before it is killed."""
        sight = self.sight()
        made = [*removals(sight), *wishes(sight, self.settings)][:cut]
        for change in made:
            self.apply(change)
        return made

    def apply(self, change: Change) -> None:
        self.revision += 1
        for key, record in change.puts.items():
            parsed, named = keys.parse_app(key), keys.parse_batch(key)
            if named is not None:
                assert named[2] == APPLICATION
                assert isinstance(record, batch_pb2.BatchApplication)
                self.change(named[:2], application=record, application_revision=self.revision)
            elif parsed is not None and parsed[1] == "spec":
                assert isinstance(record, records_pb2.StoredSpec)
                app = self.apps.setdefault(parsed[0], AppState(parsed[0]))
                if app.spec is None:
                    assert change.expects[key] == 0
                    self.uids.append(record.uid)
                app.spec = Versioned(record, self.revision)

    def change(self, name: Name, **fields: Any) -> None:
        self.batches[name] = replace(self.batches[name], **fields)

    def sweep(self) -> None:
        """As the other loop does it: what is being deleted goes."""
        self.apps = {key: app for key, app in self.apps.items() if not (app.spec and app.spec.value.deleting)}

    def message(self, batch: Batch) -> str:
        note = self.batches[batch.name].application
        assert note is not None
        return note.message


def test_an_order_gets_an_application_and_a_note_in_one_transaction() -> None:
    batch = own()
    store = Store(batch)
    (change,) = store.look()
    key = app_key(batch.name)
    assert set(change.puts) == {keys.spec(key), keys.revision(key, 1), batch.key(APPLICATION)}
    assert change.expects == {
        keys.spec(key): 0,
        keys.revision(key, 1): 0,
        batch.key(APPLICATION): 0,
        batch.key(ORDER): 5,  # it is there, and nothing has ended it since
        batch.key(STATUS): 0,
        batch.key(CANCEL): 0,
    }
    made = store.apps[key].spec
    assert made is not None
    (runner,) = made.value.spec.deployments
    assert runner.batch == records_pb2.BatchDeployment(
        concurrency=1, workers=1, namespaces=["default"], batch_id=batch.id
    )
    assert batch_of(store.apps[key]) == batch.name
    assert store.batches[batch.name].application == batch_pb2.BatchApplication(name=key.name, updated_at=stamp(T0))
    store.now_s += NOTE_PERIOD_S
    store.look()  # it says what it waits for
    assert "placement" in store.message(batch)
    assert store.look() == []


def test_names_and_marks_are_no_users() -> None:
    key = app_key(own(7).name)
    assert key.name == f"batch-{7:032x}"
    assert is_kept_name(key.name)
    assert is_kept_name(app_key(("default", "batch_of_another_kind")).name)
    assert not is_kept_name("batch-inference")
    with pytest.raises(SpecError, match="batch_id"):
        validate_spec(spec_of(own().name, OwnBatches()))
    copied = AppState(keys.AppKey("default", "copy"))
    copied.spec = Versioned(records_pb2.StoredSpec(spec=spec_of(own().name, OwnBatches())), 3)
    assert batch_of(copied) is None


def test_an_application_of_a_user_is_never_touched() -> None:
    batch = own()
    store = Store(batch)
    key = app_key(batch.name)
    users = AppState(key)
    users.spec = Versioned(records_pb2.StoredSpec(spec=spec(key.name), uid="users", revision=1), 3)
    store.apps[key] = users
    (change,) = store.look()
    assert set(change.puts) == {batch.key(APPLICATION)}
    assert "somebody's" in store.message(batch)
    ended = replace(batch, status=batch_pb2.BatchStatus(state=batch_pb2.COMPLETED, ended_at=stamp(T0)))
    store.batches = {batch.name: ended}
    assert store.look() == []
    assert users.spec.value.uid == "users"


@pytest.mark.parametrize("state", [batch_pb2.COMPLETED, batch_pb2.FAILED_VALIDATION, batch_pb2.CANCELLED_BATCH])
def test_an_application_goes_when_its_batch_has_ended(state: batch_pb2.BatchState) -> None:
    batch = own()
    store = Store(batch)
    store.look()
    store.batches = {}  # `OwnOrders` shows no ended ones
    store.look()
    assert store.apps[app_key(batch.name)].spec.value.deleting  # type: ignore[union-attr]
    assert store.look() == []
    store.sweep()
    store.batches = {batch.name: replace(batch, status=batch_pb2.BatchStatus(state=state, ended_at=stamp(T0)))}
    store.now_s += SKEW_S
    assert store.look() == []


def test_a_batch_that_may_come_back_keeps_its_application() -> None:
    batch = own()
    store = Store(batch)
    store.look()
    store.batches, store.doubtful = {}, frozenset({batch.name})
    assert store.look() == []
    store.doubtful = frozenset()
    assert len(store.look()) == 1


@pytest.mark.parametrize(
    ("fields", "after_s"),
    [
        ({}, WINDOW_S),
        ({"cancel": batch_pb2.BatchCancel(asked_at=stamp(T0 + 9))}, 9),
    ],
)
def test_a_batch_that_nobody_began_ends_by_window_or_cancel(fields: dict[str, Any], after_s: float) -> None:
    batch = own()
    store = Store(batch)
    store.look()
    store.change(batch.name, **fields)
    store.now_s = T0 + after_s + SKEW_S - 0.5  # a runner whose clock is behind may have just claimed it
    store.look()
    assert not store.apps[app_key(batch.name)].spec.value.deleting  # type: ignore[union-attr]
    store.now_s += 1
    store.look()
    assert store.apps[app_key(batch.name)].spec.value.deleting  # type: ignore[union-attr]
    store.sweep()
    assert store.look() == []
    assert census(store.sight()) == {"waiting": 0, "placed": 0}


def test_one_that_was_begun_keeps_its_application_to_publish() -> None:
    status = batch_pb2.BatchStatus(state=batch_pb2.IN_PROGRESS, epoch=1)
    batch = own(status=status, cancel=batch_pb2.BatchCancel(asked_at=stamp(T0)))
    store = Store(batch)
    store.now_s = T0 + WINDOW_S + 60
    store.look()
    assert app_key(batch.name) in store.apps


def test_one_deleted_by_hand_is_made_again() -> None:
    batch = own()
    store = Store(batch)
    store.look()
    store.apply(mark_deleting(store.apps[app_key(batch.name)]))
    store.now_s += NOTE_PERIOD_S
    store.look()
    assert "made again" in store.message(batch)
    store.sweep()
    store.look()
    assert len(set(store.uids)) == 2
    assert store.message(batch) == ""


def test_most_of_all_and_of_a_namespace() -> None:
    batches = [own(n, created=T0 + n) for n in range(4)] + [
        own(n, namespace="lab", created=T0 + n) for n in range(8, 12)
    ]
    store = Store(*batches)
    store.settings = OwnBatches(most=3, most_per_namespace=2)
    store.look()
    assert sorted(key.namespace for key in store.apps) == ["default", "default", "lab"]  # in turn
    assert census(store.sight()) == {"waiting": 5, "placed": 3}
    assert "of default have one" in store.message(batches[2])
    assert "3 batches have one" in store.message(batches[5])
    store.batches.pop(batches[0].name)
    store.look()
    assert len(store.apps) == 3  # one that is ending has its place until it is gone
    store.sweep()
    store.look()
    assert app_key(batches[2].name) in store.apps  # as many of both tenants, and this one's window ends first
    for batch in batches[1:3]:
        store.batches.pop(batch.name)
    store.look()
    store.sweep()
    store.look()
    assert sorted(key.namespace for key in store.apps) == ["default", "lab", "lab"]


def test_a_quota_holds_for_it_as_for_every_application() -> None:
    first, second = own(1), own(2, created=T0 + 1)
    store = Store(first, second, quotas=Quotas(default=Limit(cpus=0.75)))
    store.look()
    assert set(store.apps) == {app_key(first.name)}
    assert "quota of namespace default" in store.message(second)


def test_a_mesh_that_makes_none_says_so() -> None:
    batch = own()
    store = Store(batch)
    store.settings = OwnBatches(most=0)
    store.look()
    assert "this mesh makes none" in store.message(batch)
    assert store.apps == {}


def test_a_quota_is_counted_once_for_all_that_wait_in_a_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = [own(n, namespace=space, created=T0 + n) for n in range(50) for space in ("a", "b")]
    store = Store(*batches, quotas=Quotas(default=Limit(cpus=1.0)))
    counted: list[str] = []

    def counting(spec: records_pb2.ApplicationSpec, *others: Any) -> str:
        counted.append(spec.namespace)
        return exceeded(spec, *others)

    monkeypatch.setattr("keeper.own_apps.exceeded", counting)
    store.look()
    assert len(store.apps) == 4
    assert Counter(counted) == {"a": 3, "b": 3}  # two that were made and one refusal, of each
    assert all("quota of namespace" in store.message(one) for one in batches[4:])


def test_notes_are_not_written_as_often_as_reasons_change() -> None:
    batch = own()
    store = Store(batch)
    store.look()
    app = store.apps[app_key(batch.name)]
    assert app.spec is not None
    written = 0
    for step in range(100):
        store.now_s += 0.1
        reason = records_pb2.ClusterReason(cluster="east", reason=f"{step} CPUs are free")
        told = decision("", app.spec.value)
        told.reasons.append(reason)
        app.decision = Versioned(told, step)
        written += len(store.look())
    assert 4 <= written <= 6
    assert "CPUs are free" in store.message(batch)
    store.change(batch.name, claim=CLAIM)
    store.now_s += NOTE_PERIOD_S
    store.look()
    assert store.message(batch) == ""


def test_a_runner_that_is_ready_and_does_not_take_its_batch_is_told() -> None:
    batch = own()
    store = Store(batch)
    store.look()
    app = store.apps[app_key(batch.name)]
    assert app.spec is not None
    stored = app.spec.value
    ready = records_pb2.ApplicationStatus(
        uid=stored.uid, cluster="east", generation=1, revision=stored.revision, phase=records_pb2.READY
    )
    app.decision, app.status = Versioned(decision("east", stored), 1), Versioned(ready, 2)
    store.now_s += NOTE_PERIOD_S
    store.look()
    assert store.message(batch) == "its runner is ready and has not taken it: its log says why"
    store.change(batch.name, status=batch_pb2.BatchStatus(epoch=1, attempts=1, last_failure="internal error"))
    store.now_s += NOTE_PERIOD_S
    store.look()
    assert store.message(batch) == "its runner is ready and has not taken it: internal error"
    store.change(batch.name, claim=CLAIM)
    store.now_s += NOTE_PERIOD_S
    store.look()
    assert store.message(batch) == ""


@pytest.mark.parametrize("seed", range(30))
def test_whenever_a_keeper_dies_the_next_one_ends_the_same(seed: int) -> None:
    """Orders, ends, deletions by hand; each look is cut anywhere. In the end: one application for each unfinished."""
    chance = random.Random(seed)
    store = Store()
    store.settings = OwnBatches(most=4, most_per_namespace=3)
    for number in range(60):
        happens = chance.choice(("order", "order", "end", "delete", "sweep", "wait"))
        if happens == "order":
            batch = own(number, namespace=chance.choice(("a", "b")), created=store.now_s)
            store.batches[batch.name] = batch
        elif happens == "end" and store.batches:
            del store.batches[chance.choice(sorted(store.batches))]
        elif happens == "delete" and store.apps:
            store.apply(mark_deleting(store.apps[chance.choice(sorted(store.apps))]))
        elif happens == "sweep":
            store.sweep()
        else:
            store.now_s += NOTE_PERIOD_S
        store.look(cut=chance.randint(0, 2))
        assert len(store.apps) <= 4
        assert max([0, *(sum(key.namespace == name for key in store.apps) for name in "ab")]) <= 3
    for _ in range(4):
        store.now_s += NOTE_PERIOD_S
        store.look()
        store.sweep()
    unfinished = {app_key(name) for name in store.batches}
    assert set(store.apps) <= unfinished
    by_tenant = [sum(key.namespace == name for key in unfinished) for name in "ab"]
    assert len(store.apps) == min(4, sum(min(3, count) for count in by_tenant))
    assert len(store.uids) == len(set(store.uids))


@pytest.mark.parametrize(
    ("values", "named"), [({"cpus": -1.0}, "cpus"), ({"workers": 5000}, "workers"), ({"clusters": ["No!"]}, "clusters")]
)
def test_a_template_that_makes_no_application_is_refused_at_the_start(values: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidArgument, match=named):
        from_mapping({"etcd": {"endpoints": ["127.0.0.1:1"]}, "batch_own": values}, "test")


def test_the_template() -> None:
    made = spec_of(own().name, OwnBatches(cpus=2.0, memory_bytes=1 << 30, workers=3, clusters=("east",)))
    (runner,) = made.deployments
    assert (runner.resources, list(made.placement.clusters)) == (resources(2.0, memory=1 << 30), ["east"])
    assert (runner.batch.workers, runner.replicas.min, runner.replicas.max) == (3, 1, 1)
