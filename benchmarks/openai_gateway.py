"""The gateway before one replica of the tiny chat model, beside the replica alone and LiteLLM's proxy before it.

All in turn, in one run. Answers of one token tell what a hop costs; 32 streams of 200 tokens what it takes from the
engine, which shares the CPUs with everything else. CPU is of the hop's own process.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from statistics import median
from typing import Final

from benchmarks import litellm_peer
from benchmarks.llm_parts import gateway_file, is_registered, program, replica_file, wait_line
from benchmarks.openai_load import run_answers, run_streams
from benchmarks.processes import cpu_s
from benchmarks.results import keep_results, median_cell
from benchmarks.servers import ROOT
from serving._proto import records_pb2 as pb
from serving.local.etcd import EtcdOptions, start_etcd

MODEL: Final = "tiny-chat"
_STREAMS: Final = 32
_TOKENS: Final = 200
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Cell:
    """One round of one side. `cpu_us` of the hop for each request of one client, `token_cpu_us` for each token."""

    p50_ms: float
    p99_ms: float
    requests_per_s: float
    p99_16_ms: float
    cpu_us: float
    tokens_per_s: float
    first_token_ms: float
    each_token_ms: float
    token_cpu_us: float
    engine_cpu_us: float


@dataclass(frozen=True, slots=True)
class Side:
    """What is asked; `pid` is the hop's, 0 where there is none."""

    name: str
    url: str
    pid: int


def run(quick: bool, say: Say) -> str:
    """A table in Markdown. Raises `FailedPrecondition` when a side does not start.

    Each round has processes of its own: what a hop adds differs more from pair to pair of them than from time to time.
    """
    litellm_peer.install(say)
    rounds, requests = (1, 100) if quick else (5, 600)
    cells: dict[str, list[Cell]] = {}
    for number in range(rounds):
        with _replica_and_gateway() as (replica, gateway), litellm_peer.running(MODEL, replica.url) as (url, pid):
            for side in (replica, gateway, Side("LiteLLM", url, pid)):
                say(f"round {number + 1} of {rounds}: {side.name}")
                cells.setdefault(side.name, []).append(_measure(side, replica.pid, requests))
    keep_results("openai", [{"side": name, **asdict(cell)} for name, found in cells.items() for cell in found])
    return _table(cells)


def _measure(side: Side, engine: int, requests: int) -> Cell:
    hop = side.pid if side.pid != engine else 0
    before = cpu_s(hop) if hop else 0.0
    alone = run_answers(side.url, MODEL, clients=1, requests=requests)
    cpu = (cpu_s(hop) - before) if hop else 0.0
    many = run_answers(side.url, MODEL, clients=16, requests=2 * requests)
    before, engine_before = (cpu_s(hop) if hop else 0.0), cpu_s(engine)
    each = 2
    streams = run_streams(side.url, MODEL, streams=_STREAMS, each=each, tokens=_TOKENS)
    tokens = _STREAMS * each * _TOKENS
    return Cell(
        p50_ms=alone.p50_ms,
        p99_ms=alone.p99_ms,
        requests_per_s=many.requests_per_s,
        p99_16_ms=many.p99_ms,
        cpu_us=1e6 * cpu / (1.2 * requests),
        tokens_per_s=streams.tokens_per_s,
        first_token_ms=streams.first_token_ms,
        each_token_ms=streams.each_token_ms,
        token_cpu_us=1e6 * ((cpu_s(hop) - before) if hop else 0.0) / tokens,
        engine_cpu_us=1e6 * (cpu_s(engine) - engine_before) / tokens,
    )


def _table(rounds: dict[str, list[Cell]]) -> str:
    """Medians; what is added is the median of the differences, each of one round."""
    lines = [
        "| side | p50, 1 client | added | p99 | added | requests/s, 16 clients | p99, 16 | CPU of the hop/request | "
        "tokens/s, 32 streams | of direct | first token | each token | CPU/token: hop | engine |",
        "| --- |" + " --- |" * 13,
    ]
    direct = median_cell(rounds["direct"])
    for name, found in rounds.items():
        cell = median_cell(found)
        pairs = list(zip(found, rounds["direct"], strict=True))
        p50 = median(one.p50_ms - alone.p50_ms for one, alone in pairs)
        p99 = median(one.p99_ms - alone.p99_ms for one, alone in pairs)
        lines.append(
            f"| {name} | {cell.p50_ms:.2f} ms | {p50:.2f} ms | {cell.p99_ms:.2f} ms | "
            f"{p99:.2f} ms | {cell.requests_per_s:,.0f} | {cell.p99_16_ms:.1f} ms | "
            f"{cell.cpu_us:,.0f} µs | {cell.tokens_per_s:,.0f} | {cell.tokens_per_s / direct.tokens_per_s:.2f} | "
            f"{cell.first_token_ms:.1f} ms | {cell.each_token_ms:.2f} ms | {cell.token_cpu_us:.1f} µs | "
            f"{cell.engine_cpu_us:.1f} µs |"
        )
    return "\n".join(lines)


@contextlib.contextmanager
def _replica_and_gateway() -> Iterator[tuple[Side, Side]]:
    folder = ROOT / "build" / "bench-openai"
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        etcd = start_etcd(folder / f"etcd-{time.time_ns()}", options=EtcdOptions(die_with_parent=True))
        stack.callback(etcd.wipe)
        stack.callback(etcd.stop)
        endpoints = list(etcd.config().endpoints)
        file = replica_file(
            folder,
            endpoints,
            name="chat-r1-0",
            application="chat",
            llm=pb.LlmDeployment(model=MODEL),
            options={},
        )
        replica = stack.enter_context(program("serving.llm", [str(file)], folder / "serving.llm.log"))
        report = wait_line(replica, is_registered)
        config = gateway_file(folder, endpoints)
        gateway = stack.enter_context(
            program("serving.gateway", ["--config", str(config)], folder / "serving.gateway.log")
        )
        address = wait_line(gateway, lambda line: "address" in line)["address"]
        yield (
            Side("direct", f"http://{report['address']}", replica.pid),
            Side("gateway", f"http://{address}", gateway.pid),
        )
