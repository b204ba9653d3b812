"""What one broker does on one core: full cycles a second with the journal on disk, and a million items that wait.

A cycle is an item that is submitted, pulled, completed and fetched. The broker has CPU 0, clients and replicas CPU 1.
`one by one`: each item has a Submit and a Get of its own; `over a stream`: the same, as the SDK sends them, all 64
clients over one Exchange; `in hundreds`: SubmitMany and GetMany. The journal waits for the disk at each commit
(`synchronous=FULL`).
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import grpc.aio

from benchmarks.processes import cpu_s, memory
from benchmarks.results import keep_results, median_cell
from serving._proto import broker_pb2 as bpb
from serving._proto.broker_pb2_grpc import BrokerStub
from serving.errors import FailedPrecondition
from serving.sdk.exchange import Exchange

Say = Callable[[str], None]
_ROOT: Final = Path(__file__).resolve().parent.parent
_FOLDER: Final = _ROOT / "build" / "bench-broker"
_BODY: Final = bytes(256)
_CLIENTS: Final = 64
_REPLICAS: Final = 8
_CREDITS: Final = 32
_MILLION: Final = 1_000_000
_WAIT_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class Cycles:
    per_s: float
    cpu_us: float  # of the broker, for one cycle


@dataclass(frozen=True, slots=True)
class Depth:
    submitted_per_s: float
    memory_mb: float  # resident, with all of them
    recovery_s: float  # from the start of another process to its first answer
    recovered_mb: float


class BrokerProcess:
    """On CPU 0."""

    def __init__(self, folder: Path) -> None:
        command = ["taskset", "-c", "0", sys.executable, "-m", "benchmarks.broker_process", str(folder)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=_ROOT)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.strip().isdigit():
            raise FailedPrecondition(f"the broker did not start: {line!r}")
        self.address = f"127.0.0.1:{int(line)}"
        self.pid = self._process.pid

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        self._process.send_signal(number)
        self._process.wait(_WAIT_S)


def _request() -> bpb.SubmitRequest:
    return bpb.SubmitRequest(deployment="worker", request=bpb.Request(infer=_BODY))


async def _replica(stub: Any, name: str) -> None:
    """Answers at once, for as long as it is let."""
    call = stub.Pull()
    await call.write(bpb.PullRequest(hello=bpb.Hello(replica=name, process="1", deployment="worker")))
    await call.write(bpb.PullRequest(credits=bpb.Credits(more=_CREDITS)))
    result = bpb.Result(infer=_BODY)
    while True:
        first = await call.read()
        said: list[bpb.PullRequest] = []
        stored = 0
        for reply in (first, *first.more):
            if reply.HasField("work"):
                done = bpb.Done(item=reply.work.item, attempt=reply.work.attempt, result=result)
                said.append(bpb.PullRequest(done=done))
            stored += reply.HasField("stored")
        if stored:
            said.append(bpb.PullRequest(credits=bpb.Credits(more=stored)))
        if said:
            said[0].more.extend(said[1:])
            await call.write(said[0])


async def _fetch(stub: Any, ticket: str) -> None:
    _check(await stub.Get(bpb.GetRequest(ticket=ticket, wait_s=60)))


def _check(item: bpb.Item) -> None:
    if item.state != bpb.SUCCEEDED:
        raise FailedPrecondition(f"item {item.id} ended as {bpb.State.Name(item.state)}: {item.reason}")


async def _one_by_one(stub: Any, count: int) -> None:
    async def client(share: int) -> None:
        for _ in range(share):
            await _fetch(stub, (await stub.Submit(_request())).ticket)

    await asyncio.gather(*(client(count // _CLIENTS) for _ in range(_CLIENTS)))


async def _over_a_stream(stub: Any, count: int) -> None:
    exchange = Exchange(stub)

    async def client(share: int) -> None:
        for _ in range(share):
            ticket = (await exchange.call("Submit", _request(), _WAIT_S)).ticket
            _check(await exchange.call("Get", bpb.GetRequest(ticket=ticket, wait_s=60), _WAIT_S))

    await asyncio.gather(*(client(count // _CLIENTS) for _ in range(_CLIENTS)))
    await exchange.close()


async def _in_hundreds(stub: Any, count: int) -> None:
    many = bpb.SubmitManyRequest(requests=[_request()] * 100)

    async def client(share: int) -> None:
        for _ in range(share):
            tickets = [one.reply.ticket for one in (await stub.SubmitMany(many)).outcomes]
            while tickets:
                reply = await stub.GetMany(bpb.GetManyRequest(tickets=tickets, wait_s=60))
                for outcome in reply.outcomes:
                    _check(outcome.item)
                del tickets[: len(reply.outcomes)]

    await asyncio.gather(*(client(count // 400) for _ in range(4)))


WAYS: Final = {"one by one": _one_by_one, "over a stream": _over_a_stream, "in hundreds": _in_hundreds}


async def _cycles(broker: BrokerProcess, way: str, count: int) -> Cycles:
    async with grpc.aio.insecure_channel(broker.address) as channel:
        stub: Any = BrokerStub(channel)  # type: ignore[no-untyped-call]
        replicas = [asyncio.create_task(_replica(stub, f"r{number}")) for number in range(_REPLICAS)]
        try:
            await WAYS[way](stub, 800)
            used, started = cpu_s(broker.pid), time.perf_counter()
            await WAYS[way](stub, count)
            took = time.perf_counter() - started
            return Cycles(count / took, 1e6 * (cpu_s(broker.pid) - used) / count)
        finally:
            for replica in replicas:
                replica.cancel()
            await asyncio.gather(*replicas, return_exceptions=True)


async def _fill(broker: BrokerProcess, count: int) -> float:
    """Submits a second."""
    many = bpb.SubmitManyRequest(requests=[_request()] * 500)
    async with grpc.aio.insecure_channel(broker.address) as channel:
        stub: Any = BrokerStub(channel)  # type: ignore[no-untyped-call]

        async def client(share: int) -> None:
            for _ in range(share):
                reply = await stub.SubmitMany(many)
                if reply.outcomes[0].HasField("refused"):
                    raise FailedPrecondition(reply.outcomes[0].refused.message)

        started = time.perf_counter()
        await asyncio.gather(*(client(count // 2000) for _ in range(4)))
        return count / (time.perf_counter() - started)


async def _queued(broker: BrokerProcess) -> int:
    async with grpc.aio.insecure_channel(broker.address) as channel:
        stub: Any = BrokerStub(channel)  # type: ignore[no-untyped-call]
        return int((await stub.Statistics(bpb.StatisticsRequest())).queues[0].queued)


def measure_depth(count: int) -> Depth:
    """Fills a journal, kills its broker, and starts another one."""
    shutil.rmtree(_FOLDER, ignore_errors=True)
    broker = BrokerProcess(_FOLDER)
    try:
        rate = asyncio.run(_fill(broker, count))
        resident = memory(broker.pid).resident
    finally:
        broker.end(signal.SIGKILL)
    started = time.perf_counter()
    broker = BrokerProcess(_FOLDER)
    try:
        found = asyncio.run(_queued(broker))
        took = time.perf_counter() - started
        if found != count:
            raise FailedPrecondition(f"{found:,} of {count:,} items were recovered")
        return Depth(rate, resident / 1e6, took, memory(broker.pid).peak / 1e6)
    finally:
        broker.end()
        shutil.rmtree(_FOLDER, ignore_errors=True)


def measure_cycles(way: str, count: int) -> Cycles:
    shutil.rmtree(_FOLDER, ignore_errors=True)
    broker = BrokerProcess(_FOLDER)
    try:
        return asyncio.run(_cycles(broker, way, count))
    finally:
        broker.end()


def run(quick: bool, say: Say) -> str:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    lines = ["| cycles | a second | broker's CPU for one |", "| --- | --- | --- |"]
    kept: list[dict[str, Any]] = []
    for way in WAYS:
        cells = [measure_cycles(way, 2000 if quick else 8000) for _ in range(1 if quick else 3)]
        cell = median_cell(cells)
        kept.append({"cycles": way, "cells": [asdict(each) for each in cells]})
        lines.append(f"| {way} | {cell.per_s:,.0f} | {cell.cpu_us:.0f} µs |")
        say(lines[-1])
    count = _MILLION // 10 if quick else _MILLION
    depth = measure_depth(count)
    kept.append({"items": count, **asdict(depth)})
    lines += [
        "",
        "| items that wait | submitted a second | memory | another process answers after | its most memory |",
        "| --- | --- | --- | --- | --- |",
        f"| {count:,} | {depth.submitted_per_s:,.0f} | {depth.memory_mb:,.0f} MB | {depth.recovery_s:.1f} s | "
        f"{depth.recovered_mb:,.0f} MB |",
    ]
    say(lines[-1])
    if not quick:
        keep_results("broker_capacity", kept)
    return "\n".join(lines)
