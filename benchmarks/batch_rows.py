"""Rows a second of the batch operator, beside ray.data.llm's HTTP processor and a plain client of fixed concurrency.

The same two replicas of the tiny chat model, the same rows, greedy, in turn, in one run; all answers must be equal. The
time is that of the replicas, from the first answer to the last: what starts a pipeline does not count. Rows of equal
length, then rows of 1 to 100 tokens of which few are long, there beside batches that wait for their longest row.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import aiohttp

from benchmarks.llm_parts import gateway_file, is_registered, program, replica_file, wait_line
from benchmarks.processes import cpu_s, tree_cpu_s
from benchmarks.results import keep_results, median_cell
from benchmarks.servers import ROOT
from serving._proto import records_pb2 as pb
from serving.config import EtcdConfig
from serving.errors import Internal
from serving.local.etcd import EtcdOptions, start_etcd

MODEL: Final = "tiny-chat"
_PATH: Final = "/v1/chat/completions"
_CLIENTS: Final = 32  # of the plain client
_CURVE: Final = (4, 8, 16, 64, 128)  # what the replicas answer at most, however many are sent
_BATCH: Final = 16  # rows that wait for each other
_TOKENS: Final = 12
_LOOK_S: Final = 0.25
_ANSWERED: Final = re.compile(r'^mesh_ingress_calls_total\{code="OK",[^}]*\} (\S+)$', re.MULTILINE)
Say = Callable[[str], None]
Rows = list[dict[str, Any]]
Answers = dict[int, str]


@dataclass(frozen=True, slots=True)
class Side:
    name: str
    answer: Callable[[Rows], Answers]


@dataclass(frozen=True, slots=True)
class Cell:
    """One round of one side."""

    rows_per_s: float
    tokens_per_s: float
    replica_ms: float  # CPU time of the replicas for a row
    asking_ms: float  # and of all others: client, pipeline, gateway


def run(quick: bool, say: Say) -> str:
    """Two tables in Markdown. Raises `FailedPrecondition` for a process that does not start, `Internal` for answers
    that are not equal."""
    rounds, count = (1, 1000) if quick else (3, 1500)
    chance = random.Random(7)
    with _served(say) as served:
        operator, client = Side("operator", served.operator), _client_of(served, _CLIENTS)
        processor = Side("ray.data.llm, HTTP", served.processor)
        batches = Side(f"batches of {_BATCH}", served.batches)
        even = _measured([client, processor, operator], _rows(count, lambda: _TOKENS), rounds, served, say)
        curve = [_client_of(served, number) for number in _CURVE]
        most = _measured(curve, _rows(count, lambda: _TOKENS), 1, served, say)
        skewed = _measured([batches, client, operator], _rows(count, lambda: _skewed(chance)), rounds, served, say)
    tables = {f"{_TOKENS} tokens": {**most, **even}}
    tables["1 to 100 tokens"] = skewed
    keep_results(
        "batch_rows",
        [
            {"rows": name, "side": side, **asdict(cell)}
            for name, table in tables.items()
            for side, cells in table.items()
            for cell in cells
        ],
    )
    return "\n\n".join(_table(name, table) for name, table in tables.items())


def _client_of(served: _Served, at_once: int) -> Side:
    return Side(f"asyncio, {at_once} at once", lambda rows: served.client(rows, at_once))


def _skewed(chance: random.Random) -> int:
    """Nine of ten are short."""
    return chance.randint(1, 10) if chance.random() < 0.9 else chance.randint(60, 100)


def _rows(count: int, tokens: Callable[[], int]) -> Rows:
    return [
        {"id": number, "prompt": f"What is {number} plus {number % 9}?", "tokens": tokens()} for number in range(count)
    ]


def _body(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": row["prompt"]}],
        "max_tokens": row["tokens"],
        "temperature": 0,
        "ignore_eos": True,
    }


def _measured(sides: Sequence[Side], rows: Rows, rounds: int, served: _Served, say: Say) -> dict[str, list[Cell]]:
    cells: dict[str, list[Cell]] = {side.name: [] for side in sides}
    expected: Answers = {}
    for number in range(rounds):
        # Other prompts in each round, and another one begins: nobody's cache has them, or each one's once.
        asked = [{**row, "prompt": f"{row['prompt']} ({len(sides)}, {number})"} for row in rows]
        expected = {}
        for side in (*sides[number % len(sides) :], *sides[: number % len(sides)]):
            with served.watched() as ends:
                answers = side.answer(asked)
            cells[side.name].append(_cell(rows, *ends()))
            say(f"round {number + 1} of {rounds}: {side.name}: {cells[side.name][-1]}")
            expected = expected or answers
            if answers != expected:
                wrong = [key for key, value in expected.items() if answers.get(key) != value]
                raise Internal(f"{side.name}: {len(wrong)} answers differ, row {wrong[0]} among them")
    return cells


def _cell(rows: Rows, began: _Look, ended: _Look) -> Cell:
    seconds, tokens = ended.at - began.at, sum(row["tokens"] for row in rows)
    replicas_s, all_s = ended.replicas_s - began.replicas_s, ended.all_s - began.all_s
    spent = 1000 * replicas_s / len(rows), 1000 * (all_s - replicas_s) / len(rows)
    return Cell(len(rows) / seconds, tokens / seconds, *spent)


def _table(name: str, table: dict[str, list[Cell]]) -> str:
    medians = {side: median_cell(cells) for side, cells in table.items()}
    ours = medians["operator"].rows_per_s
    lines = [
        f"| {name}, side | rows/s | tokens/s | operator / side | CPU of the replicas, ms a row | CPU of all others |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for side, cell in medians.items():
        figures = f"{cell.rows_per_s:,.0f} | {cell.tokens_per_s:,.0f} | {ours / cell.rows_per_s:.2f}"
        lines.append(f"| {side} | {figures} | {cell.replica_ms:.1f} | {cell.asking_ms:.1f} |")
    return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class _Look:
    """Answers of the replicas so far, and CPU time until now: theirs, and that of all processes of this benchmark."""

    at: float
    answered: float
    replicas_s: float
    all_s: float


class _Served:
    """Two replicas in discovery, a gateway before them, and each way to ask them."""

    def __init__(self, etcd: EtcdConfig, replicas: Sequence[str], gateway: str, pids: Sequence[int], say: Say) -> None:
        """`pids` of the replicas."""
        self._pids = tuple(pids)
        self._say = say
        self._etcd = etcd
        self._replicas = tuple(replicas)
        self._gateway = gateway

    @contextlib.contextmanager
    def watched(self) -> Iterator[Callable[[], tuple[_Look, _Look]]]:
        """Once it is left, gives the looks at the first answer of the replicas and at the last."""
        seen = [self._look()]
        ended = threading.Event()

        def look() -> None:
            while not ended.wait(_LOOK_S):
                seen.append(self._look())

        looking = threading.Thread(target=look)
        looking.start()
        try:
            yield lambda: _ends(seen)
        finally:
            ended.set()
            looking.join()
            seen.append(self._look())

    def _look(self) -> _Look:
        return _Look(time.monotonic(), self._answered(), sum(map(cpu_s, self._pids)), tree_cpu_s(os.getpid()))

    def _answered(self) -> float:
        total = 0.0
        for url in self._replicas:
            with urllib.request.urlopen(f"{url}/metrics") as answer:
                total += sum(map(float, _ANSWERED.findall(answer.read().decode())))
        return total

    # ------------------------------------------------------------------------------------------------ sides

    def operator(self, rows: Rows) -> Answers:
        import ray

        from serving.batch import Discovered, LLMProcessor, ProcessorConfig

        config = ProcessorConfig(
            Discovered(self._etcd, model=MODEL), task="chat", sampling={"temperature": 0, "ignore_eos": True}
        )
        given = [{**row, "sampling_params": {"max_tokens": row["tokens"]}} for row in rows]
        processor = LLMProcessor(config)
        found = processor(ray.data.from_items(given, override_num_blocks=8)).take_all()
        report = processor.report()
        self._say(f"{report.stage}: {report.why}; {report.shares}; windows {list(report.windows.values())}")
        return {row["id"]: row["generated_text"] for row in found}

    def processor(self, rows: Rows) -> Answers:
        import ray
        from ray.data.llm import HttpRequestProcessorConfig, build_processor

        config = HttpRequestProcessorConfig(url=f"{self._gateway}{_PATH}", concurrency=2, batch_size=_CLIENTS)
        made = build_processor(
            config,
            preprocess=lambda row: {"payload": _body(row)},
            postprocess=lambda row: {"id": row["id"], "text": _text(row["http_response"])},
        )
        return {row["id"]: row["text"] for row in made(ray.data.from_items(rows, override_num_blocks=8)).take_all()}

    def client(self, rows: Rows, at_once: int) -> Answers:
        return asyncio.run(self._client(rows, at_once))

    async def _client(self, rows: Rows, at_once: int) -> Answers:
        room = asyncio.Semaphore(at_once)

        async def one(number: int, row: dict[str, Any]) -> tuple[int, str]:
            async with room:
                return await self._ask(session, self._replicas[number % len(self._replicas)], row)

        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            return dict(await asyncio.gather(*(one(number, row) for number, row in enumerate(rows))))

    def batches(self, rows: Rows) -> Answers:
        return asyncio.run(self._batches(rows))

    async def _batches(self, rows: Rows) -> Answers:
        """As `map_batches` with a client does it: the next batch begins when all of one is answered."""
        left = iter([rows[at : at + _BATCH] for at in range(0, len(rows), _BATCH)])
        answers: Answers = {}

        async def worker(replica: str) -> None:
            for batch in left:
                answers.update(await asyncio.gather(*(self._ask(session, replica, row) for row in batch)))

        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            await asyncio.gather(*map(worker, self._replicas))
        return answers

    async def _ask(self, session: aiohttp.ClientSession, replica: str, row: dict[str, Any]) -> tuple[int, str]:
        async with session.post(f"{replica}{_PATH}", json=_body(row)) as answer:
            answer.raise_for_status()
            return row["id"], _text(await answer.json())


def _text(answer: dict[str, Any]) -> str:
    return str(answer["choices"][0]["message"]["content"])


def _ends(seen: Sequence[_Look]) -> tuple[_Look, _Look]:
    """The last look without a new answer, and the first one with all."""
    began = next(look for look in reversed(seen) if look.answered == seen[0].answered)
    return began, next(look for look in seen if look.answered == seen[-1].answered)


@contextlib.contextmanager
def _served(say: Say) -> Iterator[_Served]:
    import ray

    folder = ROOT / "build" / "bench-batch"
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        etcd = start_etcd(folder / f"etcd-{time.time_ns()}", options=EtcdOptions(die_with_parent=True))
        stack.callback(etcd.wipe)
        stack.callback(etcd.stop)
        endpoints = list(etcd.config().endpoints)
        addresses, pids = [], []
        for number in range(2):
            name = f"chat-r1-{number}"
            file = replica_file(
                folder, endpoints, name=name, application="chat", llm=pb.LlmDeployment(model=MODEL), options={}
            )
            replica = stack.enter_context(program("serving.llm", [str(file)], folder / f"{name}.log"))
            pids.append(replica.pid)
            addresses.append(f"http://{wait_line(replica, is_registered)['address']}")
        config = gateway_file(folder, endpoints)
        gateway = stack.enter_context(
            program("serving.gateway", ["--config", str(config)], folder / "serving.gateway.log")
        )
        address = wait_line(gateway, lambda line: "address" in line)["address"]
        ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="error")
        stack.callback(ray.shutdown)
        ray.data.DataContext.get_current().enable_progress_bars = False
        yield _Served(etcd.config(), addresses, f"http://{address}", pids, say)
