from __future__ import annotations

import pytest
from keeper_builders import KEY, spec, stored

from keeper.clusters import ClusterBook
from keeper.config import from_mapping
from keeper.picture import Picture
from keeper.placement import Liveness
from keeper.quota import Limit, Quotas, exceeded
from keeper.resources import said
from keeper.unconfirmed import Unconfirmed
from serving._proto import records_pb2 as pb
from serving.errors import InvalidArgument
from serving.store import keys
from serving.store.records import encode
from serving.store.types import KeyValue, Snapshot

EAST = pb.ClusterRecord(name="east")


def test_a_record_that_is_missing_is_silence_first_and_then_absence() -> None:
    book = ClusterBook(grace_s=5.0)
    book.seen(EAST, 100.0)
    assert book.liveness("east", 1000.0) is Liveness.ALIVE
    book.missing("east", 100.0)
    book.missing("east", 103.0)
    assert book.liveness("east", 104.9) is Liveness.SILENT
    assert book.next_change_s(101.0) == 105.0
    assert book.liveness("east", 105.0) is Liveness.GONE
    book.seen(EAST, 106.0)
    assert book.liveness("east", 106.0) is Liveness.ALIVE
    assert book.last_seen_s("east") == 106.0


def test_nothing_is_gone_while_the_store_may_have_lost_the_records() -> None:
    book = ClusterBook(grace_s=5.0)
    book.seen(EAST, 100.0)
    book.hold(130.0)
    book.missing("east", 100.0)
    book.expected("west", 100.0)
    for name in ("east", "west", "never-seen"):
        assert book.liveness(name, 129.0) is Liveness.SILENT
        assert book.liveness(name, 130.0) is Liveness.GONE
    book.hold(110.0)
    assert book.liveness("east", 129.0) is Liveness.SILENT


def test_older_news_does_not_overwrite_newer() -> None:
    picture = Picture()
    key = keys.spec(KEY)
    assert picture.put(key, encode(stored(revision=2)), 20).apps == {KEY}
    assert not picture.put(key, encode(stored(revision=1)), 10).apps
    found = picture.app(KEY).spec
    assert found is not None
    assert found.value.revision == 2


def test_an_own_deletion_is_not_undone_by_late_news() -> None:
    picture = Picture()
    key = keys.spec(KEY)
    picture.put(key, encode(stored()), 10)
    picture.deleted_here(key, 30)
    picture.put(key, encode(stored(revision=2)), 20)
    assert picture.app(KEY).spec is None
    picture.put(key, encode(stored(revision=3)), 40)
    assert picture.app(KEY).spec is not None


def test_rubbish_is_kept_apart_and_named() -> None:
    picture = Picture()
    picture.put(keys.decision(KEY), b"rubbish", 10)
    assert set(picture.app(KEY).damaged) == {keys.decision(KEY)}
    picture.put(keys.decision(KEY), encode(pb.Decision(uid="x")), 11)
    assert not picture.app(KEY).damaged
    picture.put(keys.cluster("east"), b"rubbish", 12)
    assert not picture.clusters
    assert not picture.put("/mesh/v1/endpoints/a/b/direct/c/d", b"{}", 13).apps


def test_what_is_gone_is_forgotten() -> None:
    picture = Picture()
    picture.put(keys.placement("east", KEY), encode(pb.Placement(cluster="east")), 10)
    assert picture.delete(keys.placement("east", KEY)).apps == {KEY}
    assert not picture.apps


def test_quota_counts_the_other_applications_of_the_namespace() -> None:
    quotas = Quotas(default=Limit(cpus=4, replicas=3, applications=2), namespaces={"free": Limit()})
    others = [spec("a", cpus=2), spec("shop", cpus=64), spec("far", cpus=64, namespace="free")]
    assert exceeded(spec(cpus=2), others, quotas) == ""
    assert "4 CPUs allowed, 2 CPUs used" in exceeded(spec(cpus=3), others, quotas)
    assert "3 replicas allowed" in exceeded(spec(cpus=0.1, replicas=3), others, quotas)
    assert "2 applications allowed" in exceeded(spec(), [*others, spec("b", cpus=0)], quotas)
    assert exceeded(spec(cpus=999, namespace="free"), others, quotas) == ""


def test_amounts_in_words() -> None:
    assert [said("CPU", 10_000), said("GPU", 5_000), said("memory", 3 << 30), said("license", 20_000)] == [
        "1 CPU",
        "0.5 GPUs",
        "3 GiB of memory",
        "2 `license`",
    ]


def test_configuration_from_plain_values() -> None:
    config = from_mapping(
        {
            "etcd": {"endpoints": ["127.0.0.1:2379"], "tls": {"ca_file": "ca.pem"}},
            "cluster_grace_s": 3,
            "quotas": {"default": {"cpus": 8}, "namespaces": {"team": {"gpus": 1.0}}},
        },
        "keeper.yaml",
    )
    assert config.etcd.endpoints == ("127.0.0.1:2379",)
    assert config.etcd.tls is not None
    assert config.cluster_grace_s == 3.0
    assert config.quotas.of("team").gpus == 1.0
    assert config.quotas.of("other").cpus == 8.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "keeper.yaml: the setting `etcd` is missing"),
        ([], "keeper.yaml: a table of settings is wanted, found list"),
        ({"etcd": {"endpoints": "a:1"}}, "keeper.yaml: etcd: endpoints: a list of texts is wanted, found 'a:1'"),
        ({"etcd": {"endpoints": []}, "listn": ""}, "there is no setting `listn`; did you mean `listen`?"),
        ({"etcd": {"endpoints": []}, "election_ttl_s": "5"}, "election_ttl_s: a whole number is wanted, found '5'"),
        ({"etcd": {"endpoints": []}, "cluster_grace_s": -1}, "cluster_grace_s: -1.0 is negative"),
    ],
)
def test_a_wrong_configuration_is_named(values: object, message: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        from_mapping(values, "keeper.yaml")
    assert message in error.value.message


def test_a_store_without_our_last_writes_is_another_one() -> None:
    def snapshot(revision: int, **mods: int) -> Snapshot:
        kvs = tuple(KeyValue(key, b"", 1, mod, 1, 0) for key, mod in mods.items())
        return Snapshot(kvs, revision, cluster_id=1)

    unconfirmed = Unconfirmed()
    assert not unconfirmed
    unconfirmed.wrote(["a", "b"], 10)
    unconfirmed.wrote([], 12)
    assert unconfirmed
    assert not unconfirmed.contradicted_by(snapshot(12, a=10, b=11))
    assert not unconfirmed.contradicted_by(snapshot(20, a=15))
    assert unconfirmed.contradicted_by(snapshot(11, a=10, b=10))
    assert unconfirmed.contradicted_by(snapshot(20, a=7, b=10))
    unconfirmed.reached(10)
    assert not unconfirmed.contradicted_by(snapshot(20, a=7, b=10))
    assert unconfirmed.contradicted_by(snapshot(11))
    unconfirmed.reached(12)
    assert not unconfirmed
