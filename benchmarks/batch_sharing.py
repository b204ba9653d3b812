"""One replica of the tiny chat model that online traffic and a batch share.

Online: streams that come at random (an open loop, the same moments in each round), 30 % of what the replica answers at
the most, alone and beside a batch that keeps the replica full, in turn; the ratios are those of a round. Then without
online traffic: rows a second of the batch beside the best of plain clients of several concurrencies.

The batch is sent by another process of low priority: it would run on other machines than the replica.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import aiohttp

from benchmarks.llm_parts import is_registered, program, replica_file, wait_line
from benchmarks.results import keep_results, median_cell
from benchmarks.servers import ROOT
from serving._proto import records_pb2 as pb
from serving.errors import FailedPrecondition
from serving.local.etcd import EtcdOptions, start_etcd

MODEL: Final = "tiny-chat"
PATH: Final = "/v1/chat/completions"
TOKENS: Final = 32  # of each answer
_SHARE: Final = 0.3
_CLIENTS: Final = (16, 64, 128)  # without limits of a batch; the best of them counts
_SETTLE_S: Final = 2.0  # of the batch's windows
_NICE: Final = "10"
_RUNNING: Final = re.compile(r"^mesh_ingress_in_flight (\S+)$", re.MULTILINE)
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Online:
    """Of the streams of one round. Times in milliseconds."""

    first_p50: float
    first_p99: float
    token_p50: float  # between tokens of a stream, in the mean
    token_p99: float
    whole_p50: float
    whole_p99: float
    batch_rows_per_s: float


@dataclass(frozen=True, slots=True)
class Idle:
    """Rows a second."""

    best: float
    batch: float


def run(quick: bool, say: Say) -> str:
    """Two tables in Markdown. Raises `FailedPrecondition` for a process that does not start, `RuntimeError` for an
    answer that is none."""
    rounds, seconds = (2, 4.0) if quick else (5, 5.0)
    with _served() as url, _sending(url) as sending:
        idle = [_idle_round(sending, url, seconds / 2) for _ in range(rounds)]
        rate = _SHARE * statistics.median(cell.best for cell in idle)
        say(f"online: {rate:.1f} streams/s of {TOKENS} tokens")
        pairs = []
        for number in range(rounds):
            pairs.append(_pair(sending, url, rate, seconds, number))
            alone, beside = pairs[-1]
            say(f"round {number + 1} of {rounds}: first token p99 {alone.first_p99:.1f}, {beside.first_p99:.1f} ms")
    keep_results(
        "batch_sharing",
        [{"side": "idle", **asdict(cell)} for cell in idle]
        + [
            {"side": side, **asdict(cell)}
            for pair in pairs
            for side, cell in zip(("alone", "beside"), pair, strict=True)
        ],
    )
    return f"{online_table(pairs)}\n\n{_idle_table(idle)}"


def _pair(sending: Sending, url: str, rate: float, seconds: float, number: int) -> tuple[Online, Online]:
    """One round; which side is first changes with its number."""
    found = {}
    for batch in (False, True) if number % 2 else (True, False):
        if batch:
            sending.say("batch")
            time.sleep(_SETTLE_S)
        before = sending.rows()
        began = time.monotonic()
        times = asyncio.run(_online(url, rate, seconds, seed=number))
        rows = (sending.rows() - before) / (time.monotonic() - began)
        sending.say("stop")
        _wait_idle(url)
        found[batch] = online_cell(times, rows)
    return found[False], found[True]


def _idle_round(sending: Sending, url: str, seconds: float) -> Idle:
    def rate(what: str) -> float:
        sending.say(what)
        time.sleep(_SETTLE_S)
        before, began = sending.rows(), time.monotonic()
        time.sleep(seconds)
        found = (sending.rows() - before) / (time.monotonic() - began)
        sending.say("stop")
        _wait_idle(url)
        return found

    best = max(rate(f"clients {count}") for count in _CLIENTS)
    return Idle(best, rate("batch"))


def online_cell(times: Sequence[tuple[float, float]], rows: float) -> Online:
    first = [1e3 * one for one, _ in times]
    token = [1e3 * (whole - one) / (TOKENS - 1) for one, whole in times]
    whole = [1e3 * one for _, one in times]
    p50 = statistics.median
    return Online(p50(first), _p99(first), p50(token), _p99(token), p50(whole), _p99(whole), rows)


def _p99(values: Sequence[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)]


def online_table(pairs: Sequence[tuple[Online, Online]]) -> str:
    alone, beside = (median_cell([pair[side] for pair in pairs]) for side in (0, 1))
    lines = ["| online, ms | alone | beside a batch | ratio of a round, median |", "| --- | --- | --- | --- |"]
    for name, label in (("first", "first token"), ("token", "each token"), ("whole", "whole answer")):
        for part in ("p50", "p99"):
            field = f"{name}_{part}"
            ratio = statistics.median(getattr(two, field) / getattr(one, field) for one, two in pairs)
            values = f"{getattr(alone, field):.2f} | {getattr(beside, field):.2f} | {ratio:.2f}"
            lines.append(f"| {label}, {part} | {values} |")
    lines.append(f"| rows/s of the batch | – | {beside.batch_rows_per_s:,.0f} | – |")
    return "\n".join(lines)


def _idle_table(cells: Sequence[Idle]) -> str:
    cell = median_cell(cells)
    share = statistics.median(one.batch / one.best for one in cells)
    head = "| no online traffic, rows/s | plain client, the best | the batch | share |\n| --- | --- | --- | --- |"
    return f"{head}\n| | {cell.best:,.0f} | {cell.batch:,.0f} | {share:.2f} |"


# ---------------------------------------------------------------------------------------------------- online traffic


def body_of(prompt: str, *, stream: bool = False) -> dict[str, Any]:
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        "stream": stream,
    }


async def _online(url: str, rate: float, seconds: float, *, seed: int) -> list[tuple[float, float]]:
    """Seconds to the first token and to the end, of each stream from the moment at which it was to begin."""
    chance = random.Random(seed)
    streams = []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        began = time.perf_counter() + 0.1
        at = began
        while (at := at + chance.expovariate(rate)) < began + seconds:
            await asyncio.sleep(max(0.0, at - time.perf_counter()))
            prompt = f"Tell a story about {chance.randint(0, 10**6)} foxes."
            streams.append(asyncio.create_task(_stream(session, url, prompt, at)))
        return await asyncio.gather(*streams)


async def _stream(session: aiohttp.ClientSession, url: str, prompt: str, at: float) -> tuple[float, float]:
    first = 0.0
    async with session.post(f"{url}{PATH}", json=body_of(prompt, stream=True)) as answer:
        async for part in answer.content.iter_any():
            if not first and b'"content":"' in part.replace(b'"content":""', b""):
                first = time.perf_counter() - at
        if answer.status != 200 or not first:
            raise RuntimeError(f"{url} answered {answer.status} without a text")
    return first, time.perf_counter() - at


# ---------------------------------------------------------------------------------------------------- the replica


class Sending:
    """The process that sends rows (`benchmarks.batch_rows_sender`)."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def say(self, what: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise FailedPrecondition("the process that sends rows has ended; see its errors above")
        found: dict[str, Any] = json.loads(line)
        return found

    def rows(self) -> int:
        """That were answered."""
        return int(self.say("count")["rows"])


@contextlib.contextmanager
def _sending(url: str) -> Iterator[Sending]:
    command = ["nice", "-n", _NICE, sys.executable, "-m", "benchmarks.batch_rows_sender", url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        yield Sending(process)
        assert process.stdin is not None
        process.stdin.close()  # it ends by that


def _wait_idle(url: str, timeout_s: float = 20.0) -> None:
    """Until the replica computes nothing. Raises `FailedPrecondition` when it does not come to that."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        with urllib.request.urlopen(f"{url}/metrics") as answer:
            found = _RUNNING.search(answer.read().decode())
        if found is not None and float(found[1]) == 0:
            return
        time.sleep(0.05)
    raise FailedPrecondition("the replica goes on although nobody sends anything")


@contextlib.contextmanager
def _served() -> Iterator[str]:
    """The address of a replica."""
    folder = ROOT / "build" / "bench-sharing"
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        etcd = start_etcd(folder / f"etcd-{time.time_ns()}", options=EtcdOptions(die_with_parent=True))
        stack.callback(etcd.wipe)
        stack.callback(etcd.stop)
        llm = pb.LlmDeployment(model=MODEL)
        endpoints = list(etcd.config().endpoints)
        file = replica_file(folder, endpoints, name="chat-r1-0", application="chat", llm=llm, options={})
        replica = stack.enter_context(program("serving.llm", [str(file)], folder / "replica.log"))
        yield f"http://{wait_line(replica, is_registered)['address']}"
