"""Brokers and replicas of an application, and the etcd that they meet in: any of them is killed at any time."""

from __future__ import annotations

import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Final

from serving.local.etcd import EtcdCluster, EtcdMember
from tests.support.broker_serving import BrokerProcess, PythonProcess, broker_config, worker_config
from tests.support.llm_serving import ReplicaProcess

BROKERS: Final = 2
REPLICAS: Final = 4
_MANY: Final = 1_000_000  # attempts: an item may meet any number of kills
_LEASE_S: Final = 3.0  # of items
_TTL_S: Final = 5  # in discovery
_GONE_S: Final = (0.1, 1.5)  # how long a killed process is gone
_ALL_AT_ONCE: Final = 0.1  # of the kills of a kind
_TOO_EARLY: Final = 0.2  # of the kills: while what was killed before comes back
_LOOK_S: Final = 0.05


class Victims:
    """All processes, by kind. A killed one comes back under its name with another process."""

    def __init__(self, folder: Path, etcd: EtcdCluster, application: str) -> None:
        self._folder = folder
        self._etcd = etcd
        self._application = application
        self._running: dict[str, ReplicaProcess] = {}
        self.names = {
            "broker": [f"queue-r1-{number}" for number in range(BROKERS)],
            "replica": [f"worker-r1-{number}" for number in range(REPLICAS)],
            "etcd": [member.name for member in etcd.members],
        }

    def start(self) -> None:
        """Returns when all of them are in discovery."""
        names = self.names["broker"] + self.names["replica"]
        for name in names:
            self.launch(name)
        for name in names:
            self._running[name].wait_state("ready", registered=True, timeout_s=120.0)

    def launch(self, name: str) -> None:
        if name in self.names["etcd"]:
            self._member(name).launch()
        elif name in self.names["broker"]:
            config = broker_config(
                self._folder,
                self._etcd.config(),
                name=name,
                application=self._application,
                max_attempts=_MANY,
                lease_s=_LEASE_S,
            )
            config.lease_ttl_s = _TTL_S
            self._running[name] = BrokerProcess(self._folder, config)
        else:
            config = worker_config(
                self._folder, self._etcd.config(), name=name, application=self._application, entry="Stamps"
            )
            config.lease_ttl_s = _TTL_S
            self._running[name] = PythonProcess(self._folder, config)

    def kill(self, name: str) -> None:
        """`kill -9`; returns when it is gone."""
        if name in self.names["etcd"]:
            self._member(name).kill()
        else:
            self._running[name].kill()

    def is_back(self, name: str) -> bool:
        """Whether it answers. Members of etcd are not waited for: two of three go on."""
        return name in self.names["etcd"] or self._running[name].report.state == "ready"

    def address(self, name: str) -> str:
        """Of a broker or replica that was launched; waits until it answers."""
        return self._running[name].wait_state("ready", timeout_s=120.0).address

    def end(self, kind: str) -> None:
        """As a drain ends them."""
        for name in self.names[kind]:
            if name in self._running:
                self._running[name].end()

    def _member(self, name: str) -> EtcdMember:
        return next(member for member in self._etcd.members if member.name == name)


class Chaos:
    """While the block lasts, processes of all kinds are killed and come back; after it all of them are there again.

    The first strikes hit each kind once, then it is left to chance; `each_kind` tells when these were made. From a
    return to the next kill it takes up to `pause_s`. Most kills wait for what was killed before: where a process needs
    longer to come back than to its next kill, as on a slow machine, nobody would ever be there.
    """

    def __init__(self, victims: Victims, seed: int, *, pause_s: float) -> None:
        self.killed: Counter[str] = Counter()
        self._victims = victims
        self._pause_s = pause_s
        self._chance = random.Random(seed)
        self._first = sorted(victims.names)
        self._chance.shuffle(self._first)
        self._made = threading.Event()
        self._ended = threading.Event()
        self._strikes = ThreadPoolExecutor(1, "chaos")

    def __enter__(self) -> Chaos:
        self._run = self._strikes.submit(self._strike_on)
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self._ended.set()
        self._strikes.shutdown()
        if kind is None:
            self._run.result()

    @property
    def each_kind(self) -> bool:
        """Each kind was killed once. Raises what has ended the strikes."""
        if self._run.done():
            self._run.result()
        return self._made.is_set()

    def _strike_on(self) -> None:
        for kind in self._first:
            if self._ended.is_set():
                return
            self._strike(kind)
        self._made.set()
        while not self._ended.is_set():
            self._strike(self._chance.choice(sorted(self._victims.names)))

    def _strike(self, kind: str) -> None:
        names = self._victims.names[kind]
        hit = names if self._chance.random() < _ALL_AT_ONCE else [self._chance.choice(names)]
        for name in hit:
            self._victims.kill(name)
            self.killed[kind] += 1
        self._ended.wait(self._chance.uniform(*_GONE_S))
        for name in hit:
            self._victims.launch(name)
        if self._chance.random() >= _TOO_EARLY:
            self._wait_back(hit)
        self._ended.wait(self._chance.uniform(0.0, self._pause_s))

    def _wait_back(self, names: list[str]) -> None:
        while not all(self._victims.is_back(name) for name in names):
            if self._ended.wait(_LOOK_S):
                return
