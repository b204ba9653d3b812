"""Brokers, replicas and etcd are killed at random while requests are submitted and run: each ticket gets one result.

`MESH_CHAOS_SEED` says which victims, in the long test `MESH_CHAOS_ITEMS` how many items; the seed is printed.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import sqlite3
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any, Final

import grpc.aio
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as kserve

from serving import AsyncMeshClient, Connection
from serving._proto import broker_pb2 as bpb
from serving._proto.broker_pb2_grpc import BrokerStub
from serving.broker.items import State
from serving.local.etcd import EtcdCluster, EtcdOptions, start_etcd_cluster
from serving.sdk.tensors import decode_response
from tests.support.broker_serving import WORKER, told
from tests.support.queue_chaos import Chaos, Victims

SEED: Final = int(os.environ.get("MESH_CHAOS_SEED", str(random.SystemRandom().randrange(10**6))))
ITEMS: Final = int(os.environ.get("MESH_CHAOS_ITEMS", "100000"))
APPLICATION: Final = "queue-chaos"
CLIENTS: Final = 64
LIMIT_S: Final = 300.0  # of one request
MANY: Final = 500


@dataclass(slots=True)
class Seen:
    """What clients were told: of each number its ticket, and the run of its result."""

    tickets: dict[int, str] = field(default_factory=dict)
    runs: dict[int, int] = field(default_factory=dict)


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    cluster = start_etcd_cluster(tmp_path_factory.mktemp("etcd"), options=EtcdOptions(die_with_parent=True))
    yield cluster
    cluster.kill()


@pytest.mark.timeout(600)
async def test_each_ticket_has_one_result_whatever_is_killed(tmp_path: Path, etcd: EtcdCluster) -> None:
    await check_chaos(tmp_path, etcd, "short", 2000, pause_s=1.5)


@pytest.mark.long
@pytest.mark.timeout(7200)
async def test_each_of_100_000_tickets_has_one_result(tmp_path: Path, etcd: EtcdCluster) -> None:
    await check_chaos(tmp_path, etcd, "long", ITEMS, pause_s=6.0)


async def check_chaos(folder: Path, etcd: EtcdCluster, name: str, count: int, *, pause_s: float) -> None:
    print(f"\nMESH_CHAOS_SEED={SEED}")
    victims = Victims(folder, etcd, f"{APPLICATION}-{name}")
    began = time.monotonic()
    try:
        await asyncio.to_thread(victims.start)
        async with AsyncMeshClient(Connection(etcd.config())) as client:
            with Chaos(victims, SEED, pause_s=pause_s) as chaos:
                seen = await ask_all(client, f"{APPLICATION}-{name}", count, chaos)
            count = len(seen.tickets)
            print(f"{count:,} items, killed {dict(chaos.killed)} in {time.monotonic() - began:.0f} s")
        assert set(chaos.killed) == {"broker", "replica", "etcd"}, "each kind was killed"
        await asyncio.to_thread(victims.end, "replica")
        check_runs(seen, told(folder), count)
        await asyncio.to_thread(victims.end, "broker")
        check_journals(folder, count)
        await asyncio.to_thread(victims.launch, victims.names["broker"][0])
        await check_again(victims, seen)
    finally:
        victims.end("replica")
        victims.end("broker")


# ------------------------------------------------------------------------------------------------------- clients


async def ask_all(client: AsyncMeshClient, application: str, count: int, chaos: Chaos) -> Seen:
    """Submits `count` items, and more until each kind was killed; waits for each result, while others are submitted."""
    seen = Seen()
    numbers = takewhile(lambda number: number < count or not chaos.each_kind, itertools.count())

    async def ask() -> None:
        for number in numbers:
            ticket = await client.submit(application, WORKER, {"n": np.array([number])}, timeout_s=LIMIT_S)
            seen.tickets[number] = str(ticket).rpartition("/")[2]
            result: Any = await ticket.result(timeout_s=LIMIT_S)
            assert result["doubled"].tolist() == [2 * number]
            seen.runs[number] = int(result["run"][0])

    await asyncio.gather(*(ask() for _ in range(CLIENTS)))
    return seen


async def check_again(victims: Victims, seen: Seen) -> None:
    """A broker that has taken over all journals tells the same results as were told before."""
    broker = victims.names["broker"][0]
    address = await asyncio.to_thread(victims.address, broker)
    numbers = list(seen.tickets)
    async with grpc.aio.insecure_channel(address, options=[("grpc.max_receive_message_length", -1)]) as channel:
        stub: Any = BrokerStub(channel)  # type: ignore[no-untyped-call]
        while numbers:
            some = numbers[:MANY]
            reply = await stub.GetMany(bpb.GetManyRequest(tickets=[seen.tickets[number] for number in some]))
            for number, outcome in zip(some, reply.outcomes, strict=False):  # it answers as many as fit
                assert outcome.item.state == bpb.SUCCEEDED, outcome
                answer = decode_response(kserve.ModelInferResponse.FromString(outcome.item.result.infer))
                assert (int(answer["doubled"][0]), int(answer["run"][0])) == (2 * number, seen.runs[number])
            assert reply.outcomes
            del numbers[: len(reply.outcomes)]


# --------------------------------------------------------------------------------------------------------- checks


def check_runs(seen: Seen, noted: list[str], count: int) -> None:
    """Each number has a result, and that is of one of its runs."""
    assert set(seen.runs) == set(range(count))
    assert len(set(seen.tickets.values())) == count
    ran: dict[int, set[int]] = defaultdict(set)
    for line in noted:
        _, run, number = line.split()
        ran[int(number)].add(int(run))
    assert all(run in ran[number] for number, run in seen.runs.items())
    twice = sum(len(runs) > 1 for runs in ran.values())
    print(f"{twice:,} of {count:,} ran to their ends more than once")


def check_journals(folder: Path, count: int) -> None:
    """Each item has succeeded, and has one result; nothing else is there."""
    states: Counter[int] = Counter()
    results = 0
    for file in folder.rglob("*.sqlite"):
        database = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
        try:
            states.update(dict(database.execute("SELECT state, count(*) FROM items GROUP BY state")))
            results += database.execute("SELECT count(*) FROM results").fetchone()[0]
        finally:
            database.close()
    assert states == {int(State.SUCCEEDED): count}
    assert results == count
