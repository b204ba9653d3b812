"""Prompts to the replica that knows how they begin, beside one replica after the other: time to the first token.

Two applications of four real replicas each behind one gateway, in turn, in one run. A replica's cache holds about a
third of the shared beginnings, as it does where users are many: what a replica has is worth something.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import aiohttp

from benchmarks.llm_parts import gateway_file, is_registered, program, replica_file, wait_line
from benchmarks.results import keep_results
from benchmarks.servers import ROOT
from serving._proto import records_pb2 as pb
from serving.local.etcd import EtcdOptions, start_etcd
from serving.openai.tokens_headers import PROMPT_TOKENS
from serving.routing.llm_routing import PREFIX, ROUND_ROBIN

MODEL: Final = "tiny-chat"
_SIDES: Final = (ROUND_ROBIN, PREFIX)
_REPLICAS: Final = 4
_PREFIXES: Final = 40
_CLIENTS: Final = 2
_CACHE_MB: Final = 48
_PREFIX_WORDS: Final = 620
_ANSWER: Final = 4  # tokens
_WORDS: Final = (
    *("order", "ship", "return", "price", "store", "customer", "answer", "polite", "short", "table", "garden"),
    *("river", "summer", "window", "paper", "light", "music", "travel", "number", "letter", "winter", "simple"),
    *("market", "morning", "bridge", "dinner", "doctor", "engine", "family", "forest"),
)
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Cell:
    """Times to the first token in one round of one side, in milliseconds; `tokens` of a prompt, the median."""

    side: str
    prompts: str
    p50_ms: float
    p90_ms: float
    mean_ms: float
    tokens: float


def run(quick: bool, say: Say) -> str:
    """A table in Markdown. Raises `FailedPrecondition` when a process does not start."""
    rounds, each = (1, 1) if quick else (3, 2)
    cells: list[Cell] = []
    chance = random.Random(17)
    with _gateway(say) as url:
        shared = [_text(chance) for _ in range(_PREFIXES)]
        for side in _SIDES:
            say(f"warm-up: {side}")
            asyncio.run(_ask(url, side, [_body(side, text, chance) for text in shared]))
        for number in range(rounds):
            texts = shared * each
            chance.shuffle(texts)
            for side in _SIDES:
                say(f"round {number + 1} of {rounds}: {side}, common beginnings")
                cells.append(_cell(url, side, "common", [_body(side, text, chance) for text in texts]))
        for number in range(rounds):  # afterwards, because they drive the others out of all caches
            fresh = [_text(chance) for _ in range(_PREFIXES)]
            for side in _SIDES:
                say(f"round {number + 1} of {rounds}: {side}, nothing in common")
                cells.append(_cell(url, side, "distinct", [_body(side, text, chance) for text in fresh]))
    keep_results("prefix", [asdict(cell) for cell in cells])
    return _table(cells)


def _text(chance: random.Random) -> str:
    return " ".join(chance.choice(_WORDS) for _ in range(_PREFIX_WORDS))


def _body(side: str, text: str, chance: random.Random) -> dict[str, Any]:
    question = " ".join(chance.choice(_WORDS) for _ in range(12))
    return {
        "model": f"{side}/{MODEL}",
        "messages": [{"role": "system", "content": text}, {"role": "user", "content": question}],
        "max_tokens": _ANSWER,
        "min_tokens": _ANSWER,
        "temperature": 0,
        "stream": True,
    }


def _cell(url: str, side: str, prompts: str, bodies: Sequence[dict[str, Any]]) -> Cell:
    found = asyncio.run(_ask(url, side, bodies))
    times = sorted(1e3 * first for first, _ in found)
    return Cell(
        side=side,
        prompts=prompts,
        p50_ms=statistics.median(times),
        p90_ms=times[int(len(times) * 0.9)],
        mean_ms=statistics.fmean(times),
        tokens=statistics.median(tokens for _, tokens in found),
    )


async def _ask(url: str, side: str, bodies: Sequence[dict[str, Any]]) -> list[tuple[float, int]]:
    """Seconds to the first token and tokens of the prompt, of each. Each client asks one after the other."""
    waiting = list(reversed(bodies))
    found: list[tuple[float, int]] = []

    async def client(session: aiohttp.ClientSession) -> None:
        while waiting:
            body = waiting.pop()
            began = time.perf_counter()
            async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
                if answer.status != 200:
                    raise RuntimeError(f"{side} answered {answer.status}: {(await answer.text())[:300]}")
                await answer.content.readany()  # the answer's head waits for the first token
                found.append((time.perf_counter() - began, int(answer.headers[PROMPT_TOKENS])))
                await answer.read()

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=300)) as session:
        await asyncio.gather(*(client(session) for _ in range(_CLIENTS)))
    return found


@contextlib.contextmanager
def _gateway(say: Say) -> Iterator[str]:
    """Its address, with all replicas behind it."""
    folder = ROOT / "build" / "bench-prefix"
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        etcd = start_etcd(folder / f"etcd-{time.time_ns()}", options=EtcdOptions(die_with_parent=True))
        stack.callback(etcd.wipe)
        stack.callback(etcd.stop)
        endpoints = list(etcd.config().endpoints)
        say(f"starting {len(_SIDES) * _REPLICAS} replicas")
        for side in _SIDES:
            for number in range(_REPLICAS):
                name = f"{side}-{number}".replace("_", "-")
                file = replica_file(
                    folder,
                    endpoints,
                    name=name,
                    application=side,
                    llm=pb.LlmDeployment(model=MODEL, routing=pb.LlmRouting(choice=side)),
                    options={"cache_mb": _CACHE_MB},
                )
                wait_line(
                    stack.enter_context(program("serving.llm", [str(file)], folder / f"{name}.log")), is_registered
                )
        config = gateway_file(folder, endpoints)
        gateway = stack.enter_context(program("serving.gateway", ["--config", str(config)], folder / "gateway.log"))
        yield f"http://{wait_line(gateway, lambda line: 'address' in line)['address']}"


def _table(cells: Sequence[Cell]) -> str:
    lines = ["| prompts | side | p50 | p90 | mean | p50 of round robin |", "| --- |" + " --- |" * 5]
    for prompts in ("common", "distinct"):
        usual = 0.0
        for side in _SIDES:
            own = [cell for cell in cells if (cell.side, cell.prompts) == (side, prompts)]
            p50, p90, mean = (
                statistics.median(getattr(cell, name) for cell in own) for name in ("p50_ms", "p90_ms", "mean_ms")
            )
            usual = usual or p50
            title = f"{own[0].tokens:,.0f} tokens, " + (
                f"{_PREFIXES} common beginnings" if prompts == "common" else "nothing in common"
            )
            lines.append(f"| {title} | {side} | {p50:.1f} ms | {p90:.1f} ms | {mean:.1f} ms | {p50 / usual:.2f} |")
    return "\n".join(lines)
