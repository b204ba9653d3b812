"""The C++ watcher: nothing lost, nothing doubled, no lost store read as a deletion."""

from __future__ import annotations

import base64
import json
import queue
import signal
import subprocess
import threading
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from serving.local.etcd import EtcdCluster
from tests.integration.registry.probes import END_TIMEOUT_S, probe_binary
from tests.integration.replica.replica_harness import Store
from tests.support.waiting import eventually

PREFIX = "/mesh/watched/"
WAIT_S = 60.0


class WatcherProbe:
    """One process that follows PREFIX; `view` is what its events add up to."""

    def __init__(self, endpoints: tuple[str, ...]) -> None:
        argument = json.dumps({"endpoints": list(endpoints), "prefix": PREFIX})
        command = [str(probe_binary("watcher_probe")), argument]
        self.popen = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.view: dict[str, str] = {}
        self.revisions: list[int] = []
        self.puts: list[tuple[str, str]] = []
        self.events: queue.Queue[dict[str, Any]] = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        for line in self.popen.stdout or ():
            event = json.loads(line)
            if event["event"] == "listing":
                self.view = dict(event["keys"])
            elif event["event"] == "changes":
                self.puts += [(key, value) for key, value in event["puts"]]
                gone = set(event["deletes"])
                self.view = {key: value for key, value in (self.view | dict(event["puts"])).items() if key not in gone}
                self.revisions.append(event["revision"])
            self.events.put(event)

    def next(self, kind: str) -> dict[str, Any]:
        """Skips to the next event of that kind."""
        while True:
            event = self.events.get(timeout=WAIT_S)
            if event["event"] == kind:
                return event

    def wait_view(self, wanted: dict[str, str]) -> None:
        eventually(lambda: self.view == wanted, timeout_s=WAIT_S, what=f"{wanted}")

    def end(self) -> int:
        if self.popen.stdin is not None:
            self.popen.stdin.close()
        code = self.popen.wait(END_TIMEOUT_S)
        self._reader.join(END_TIMEOUT_S)
        if self.popen.stdout is not None:
            self.popen.stdout.close()
        return code


@pytest.fixture
def start_watcher() -> Iterator[Callable[[EtcdCluster], WatcherProbe]]:
    started: list[WatcherProbe] = []

    def start(etcd: EtcdCluster) -> WatcherProbe:
        started.append(WatcherProbe(etcd.endpoints))
        return started[-1]

    yield start
    assert [probe.end() for probe in started] == [0] * len(started)


StartWatcher = Callable[[EtcdCluster], WatcherProbe]


def compact(etcd: EtcdCluster, revision: int) -> None:
    """Forgets everything before that revision, through the server's JSON gateway."""
    request = urllib.request.Request(
        f"{etcd.members[0].client_url}/v3/kv/compaction",
        data=json.dumps({"revision": str(revision), "physical": True}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        answer.read()


def current_revision(etcd: EtcdCluster) -> int:
    request = urllib.request.Request(
        f"{etcd.members[0].client_url}/v3/kv/range",
        data=json.dumps({"key": base64.b64encode(b"/none").decode()}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return int(json.loads(answer.read())["header"]["revision"])


def test_lists_and_follows(server: EtcdCluster, start_watcher: StartWatcher) -> None:
    store = Store(server.config())
    store.put(PREFIX + "a", b"1")
    watcher = start_watcher(server)
    assert watcher.next("listing")["keys"] == {PREFIX + "a": "1"}
    store.put(PREFIX + "b", b"2")
    store.put("/mesh/other", b"not ours")
    store.delete(PREFIX + "a")
    watcher.wait_view({PREFIX + "b": "2"})


def test_more_keys_than_one_page(server: EtcdCluster, start_watcher: StartWatcher) -> None:
    store = Store(server.config())
    wanted = {f"{PREFIX}{number:05d}": str(number) for number in range(2500)}
    store.put_many(wanted)
    start_watcher(server).wait_view(wanted)


def test_resumes_after_a_crash_without_losing_or_doubling(server: EtcdCluster, start_watcher: StartWatcher) -> None:
    store = Store(server.config())
    watcher = start_watcher(server)
    watcher.next("listing")
    for number in range(12):
        store.put(PREFIX + "a", str(number).encode())
        if number % 4 == 3:
            server.kill()
            server.start()
    watcher.wait_view({PREFIX + "a": "11"})
    assert watcher.puts == [(PREFIX + "a", str(number)) for number in range(12)]
    assert watcher.revisions == sorted(set(watcher.revisions))


def test_says_once_that_etcd_is_away(server: EtcdCluster, start_watcher: StartWatcher) -> None:
    store = Store(server.config())
    watcher = start_watcher(server)
    watcher.next("listing")
    server.kill()
    watcher.next("disconnected")
    server.start()
    store.put(PREFIX + "a", b"1")
    watcher.wait_view({PREFIX + "a": "1"})
    assert "disconnected" not in [event["event"] for event in list(watcher.events.queue)]


def test_lists_again_after_a_compaction(server: EtcdCluster, start_watcher: StartWatcher) -> None:
    store = Store(server.config())
    watcher = start_watcher(server)
    watcher.next("listing")
    # The watcher sleeps while etcd forgets what it has not seen: the connection must break, or it would be told.
    watcher.popen.send_signal(signal.SIGSTOP)
    try:
        server.kill()
        server.start()
        for number in range(5):
            store.put(PREFIX + "a", str(number).encode())
        compact(server, current_revision(server))
        server.kill()  # what waits in the old connection's buffers is from before
        server.start()
    finally:
        watcher.popen.send_signal(signal.SIGCONT)
    listing = watcher.next("listing")
    assert listing["replaced"] is False
    assert listing["keys"] == {PREFIX + "a": "4"}


def test_an_emptied_store_is_said_to_be_replaced(server: EtcdCluster, start_watcher: StartWatcher) -> None:
    store = Store(server.config())
    store.put(PREFIX + "a", b"1")
    watcher = start_watcher(server)
    assert watcher.next("listing")["replaced"] is False
    server.kill()
    server.wipe()
    server.start()
    listing = watcher.next("listing")
    assert (listing["replaced"], listing["keys"]) == (True, {})
    store.put(PREFIX + "b", b"2")
    watcher.wait_view({PREFIX + "b": "2"})


def test_a_member_that_dies_is_left(three_members: EtcdCluster, start_watcher: StartWatcher) -> None:
    watcher = start_watcher(three_members)
    watcher.next("listing")
    three_members.members[0].kill()
    store = Store(three_members.config())
    store.put(PREFIX + "a", b"1")
    watcher.wait_view({PREFIX + "a": "1"})
