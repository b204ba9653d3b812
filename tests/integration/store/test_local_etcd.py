"""Starting etcd: kept data and ports, clear errors."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from serving.errors import FailedPrecondition, InvalidArgument
from serving.local.etcd import EtcdCluster, start_etcd, start_etcd_cluster
from serving.local.etcd_binary import find_etcd
from serving.local.ports import free_ports
from serving.local.process import stop_group
from serving.process_id import ProcessId
from serving.store import EtcdClient
from tests.support.etcd_server import OPTIONS


@pytest.fixture
def started() -> Iterator[Callable[[EtcdCluster], EtcdCluster]]:
    clusters: list[EtcdCluster] = []

    def note(cluster: EtcdCluster) -> EtcdCluster:
        clusters.append(cluster)
        return cluster

    yield note
    for cluster in clusters:
        cluster.kill()


async def test_data_and_ports_are_kept(tmp_path: Path, started: Callable[[EtcdCluster], EtcdCluster]) -> None:
    first = started(await asyncio.to_thread(start_etcd, tmp_path, options=OPTIONS))
    client = EtcdClient(first.config())
    await client.put("/mesh/a", b"1")
    before = await client.get_prefix("/mesh/")
    with pytest.raises(FailedPrecondition, match=r"an etcd with pid \d+ already runs in .*: stop it first"):
        await asyncio.to_thread(start_etcd, tmp_path, options=OPTIONS)
    state = json.loads((tmp_path / "etcd.json").read_text())  # another process ends it by what stands there
    assert await asyncio.to_thread(stop_group, ProcessId.from_dict(state["process"]), grace_s=60) is True
    second = started(await asyncio.to_thread(start_etcd, tmp_path, options=OPTIONS))
    assert second.endpoints == first.endpoints == (state["endpoint"],)
    assert await client.get_prefix("/mesh/") == before
    await asyncio.to_thread(second.stop)
    second.wipe()
    await asyncio.to_thread(second.start)
    after = await client.get_prefix("/mesh/")
    assert after.kvs == ()
    assert after.cluster_id != before.cluster_id
    await client.close()


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    client_port, peer_port = free_ports(2)
    with socket.create_server(("127.0.0.1", client_port)), pytest.raises(FailedPrecondition, match="already in use"):
        start_etcd(tmp_path, options=OPTIONS, client_port=client_port, peer_port=peer_port)


def test_other_ports_are_taken_when_the_kept_ones_are_gone(
    tmp_path: Path, started: Callable[[EtcdCluster], EtcdCluster]
) -> None:
    first = started(start_etcd(tmp_path, options=OPTIONS))
    first.stop()
    with socket.create_server(("127.0.0.1", first.members[0].client_port)):
        second = started(start_etcd(tmp_path, options=OPTIONS))
    assert second.endpoints != first.endpoints


def test_a_missing_etcd_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Path(find_etcd()).is_file()
    monkeypatch.setattr("shutil.which", lambda *_args, **_options: None)
    with pytest.raises(FailedPrecondition, match="apt-get install etcd-server"):
        find_etcd()


def test_a_wrong_flag_shows_what_etcd_said(tmp_path: Path) -> None:
    options = replace(OPTIONS, extra_flags=("--no-such-flag",))
    with pytest.raises(FailedPrecondition, match=r"(?s)ended with status \d+ before it was ready.*no-such-flag"):
        start_etcd(tmp_path, options=options)


def test_a_damaged_state_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "etcd.json").write_text("{")
    with pytest.raises(FailedPrecondition, match=r"etcd\.json is damaged"):
        start_etcd(tmp_path, options=OPTIONS)
    with pytest.raises(InvalidArgument, match="at least one member"):
        start_etcd_cluster(tmp_path, members=0)


def test_a_running_store_is_not_wiped(tmp_path: Path, started: Callable[[EtcdCluster], EtcdCluster]) -> None:
    cluster = started(start_etcd(tmp_path, options=OPTIONS))
    with pytest.raises(FailedPrecondition, match="still runs"):
        cluster.wipe()
