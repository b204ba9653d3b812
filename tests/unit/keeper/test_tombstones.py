"""Which tombstones a keeper still keeps."""

from __future__ import annotations

from keeper.own_apps import app_key
from keeper.picture import AppState, Picture, Versioned
from keeper.reconciler import MAX_OWN_TOMBSTONES, MAX_TOMBSTONES, surplus_tombstones
from serving._proto import records_pb2
from serving.store import keys
from serving.store.keys import AppKey


def bury(picture: Picture, key: AppKey, revision: int) -> str:
    uid = f"uid-{revision}"
    picture.apps.setdefault(key, AppState(key)).tombstones[uid] = Versioned(records_pb2.Placement(), revision)
    return keys.deleted(key, uid)


def test_those_of_batches_do_not_push_out_those_of_users() -> None:
    picture = Picture()
    users = [bury(picture, AppKey("default", f"shop-{n}"), n) for n in range(MAX_TOMBSTONES)]
    own = [
        bury(picture, app_key(("default", f"batch_{n:032x}")), MAX_TOMBSTONES + n) for n in range(MAX_TOMBSTONES + 5)
    ]
    assert [key for key, _ in surplus_tombstones(picture)] == own[: len(own) - MAX_OWN_TOMBSTONES]
    bury(picture, AppKey("default", "shop-0"), 9999)
    assert next(key for key, _ in surplus_tombstones(picture)) == users[0]


def test_the_tombstone_of_what_is_still_going_counts_not() -> None:
    picture = Picture()
    for number in range(MAX_OWN_TOMBSTONES + 3):
        key = app_key(("default", f"batch_{number:032x}"))
        bury(picture, key, number)
        stored = records_pb2.StoredSpec(uid=f"uid-{number}", deleting=True)
        picture.apps[key].spec = Versioned(stored, number)
    assert surplus_tombstones(picture) == []
