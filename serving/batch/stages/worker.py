"""One worker of a processor: an actor of Ray Data's that hands its rows to a sender of its own."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

import pyarrow as pa
import uvloop

from serving.batch.checkpoint.parts import ERROR
from serving.batch.rows.request import RowAnswer, RowRequest
from serving.batch.sending.make import make_sender
from serving.batch.sending.sender import Sender
from serving.batch.stages.columns import Cells, cells_of, column, columns_of, failed, with_columns
from serving.batch.stages.report import WorkerTimes
from serving.batch.stages.requests import needed_columns, request_of
from serving.batch.stages.settings import KSERVE_TASK, RAISE, ProcessorConfig
from serving.errors import Internal, InvalidArgument
from serving.observe import get_logger
from serving.types import PROTOCOL_KSERVE_GRPC, PROTOCOL_OPENAI_HTTP

_LOG: Final = get_logger(__name__)
_TELL_S: Final = 1.0
T = TypeVar("T")
UserStep = Callable[[dict[str, Any]], Mapping[str, Any]]
Tell = Callable[[WorkerTimes], None]


class RowWorker:
    """Called with a table of rows, gives it with their answers. Calls may overlap: their rows go together.

    The sender has a thread and a loop of its own: Ray Data holds up the loop on which it calls this.
    """

    def __init__(
        self,
        config: ProcessorConfig,
        preprocess: UserStep | None = None,
        postprocess: UserStep | None = None,
        processor: str = "",
    ) -> None:
        """With `processor`, what it did is told under that name. Raises what `make_sender` raises."""
        self.times = WorkerTimes()
        self._config = config
        self._preprocess = preprocess
        self._postprocess = postprocess
        self._needed = None if preprocess is not None or postprocess is not None else needed_columns(config)
        self._tell = _teller(processor) if processor else None
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="batch-sender", daemon=True)
        self._thread.start()
        self._steps = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batch-steps")
        self._first = 0.0
        self._calls = 0
        self._telling: threading.Thread | None = None
        self._closed = threading.Event()
        self._one_tells = threading.Lock()
        self._sender = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()

    async def _start(self) -> Sender:
        protocol = PROTOCOL_KSERVE_GRPC if self._config.task == KSERVE_TASK else PROTOCOL_OPENAI_HTTP
        sender = make_sender(self._config.target, self._config.sender, protocol=protocol)
        await sender.start()
        return sender

    async def __call__(self, table: pa.Table) -> pa.Table:
        """All columns of the rows, and those of their answers, in the order of the rows."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._answered(table), self._loop))

    def close(self) -> None:
        """Rows on their way get a fault. Ray Data ends workers with their processes instead."""
        if self._loop.is_closed():
            return
        self._closed.set()
        if self._telling is not None:
            self._telling.join()
        asyncio.run_coroutine_threadsafe(self._sender.close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._steps.shutdown()

    # ------------------------------------------------------------------------------------------------ on its loop

    async def _answered(self, table: pa.Table) -> pa.Table:
        if not table.num_rows:
            return table
        self._open()
        self._calls += 1
        try:
            return await self._stages(table)
        finally:
            self._calls -= 1
            if self._tell is not None and not self._calls:  # it may be the last one: the process ends after it
                await asyncio.to_thread(self._told, self._tell, self.snapshot())

    async def _stages(self, table: pa.Table) -> pa.Table:
        rows, requests = await self._apart(self._prepared, table)
        cells = await self._inferred(requests)
        return await self._apart(self._finished, table, rows, cells)

    async def _apart(self, step: Callable[..., T], *arguments: Any) -> T:
        """On the one thread of users' steps: requests on their way are not held up by what may take long."""
        return await self._loop.run_in_executor(self._steps, step, *arguments)

    def _open(self) -> None:
        if not self._first:
            self._first = time.monotonic()
            self._sender.begin_clock()
            if self._tell is not None:
                self._telling = threading.Thread(target=self._tell_on, args=[self._tell], name="batch-telling")
                self._telling.daemon = True  # it ends with the process, in whatever state
                self._telling.start()

    def _prepared(self, table: pa.Table) -> tuple[list[dict[str, Any]], list[RowRequest | RowAnswer]]:
        """Answers stand where a row cannot be sent."""
        began = time.perf_counter()
        if self._needed is not None:
            table = table.select([name for name in table.column_names if name in self._needed])
        rows: list[dict[str, Any]] = table.to_pylist()
        requests: list[RowRequest | RowAnswer] = []
        for row in rows:
            if self._preprocess is not None:
                row.update(self._preprocess(row))
            try:
                requests.append(request_of(self._config, row))
            except InvalidArgument as error:
                requests.append(failed(error))
        self.times.prepare_s += time.perf_counter() - began
        return rows, requests

    async def _inferred(self, requests: list[RowRequest | RowAnswer]) -> list[Cells]:
        answers: dict[int, Cells] = {}
        sent: list[tuple[int, RowRequest]] = []
        for number, one in enumerate(requests):
            if isinstance(one, RowRequest):
                sent.append((number, one))
            else:
                answers[number] = self._checked(one)
        async with contextlib.aclosing(self._sender.send_all(sent)) as finished:
            async for number, answer in finished:
                answers[number] = self._checked(answer)
        return [answers[number] for number in range(len(requests))]

    def _checked(self, answer: RowAnswer) -> Cells:
        """Raises where a row that fails is to stop the job."""
        cells = cells_of(self._config, answer)
        fault = cells.fault
        if fault is not None and self._config.on_error == RAISE:
            text = f"a row failed, and `on_error` is {RAISE}: {fault.code}: {fault.message} ({fault.attempts} attempts)"
            own = 400 <= answer.status < 500 or not fault.attempts  # which was never sent
            raise InvalidArgument(text) if own else Internal(text)
        return cells

    def _finished(self, table: pa.Table, rows: list[dict[str, Any]], cells: list[Cells]) -> pa.Table:
        began = time.perf_counter()
        columns: dict[str, Any] = columns_of(self._config, cells)
        if self._postprocess is not None:
            columns = self._postprocessed(rows, columns)
        finished = with_columns(table, columns)
        self.times.finish_s += time.perf_counter() - began
        return finished

    def _postprocessed(self, rows: list[dict[str, Any]], columns: dict[str, Any]) -> dict[str, Any]:
        """Rows that failed do not go through it: their columns of it are null."""
        assert self._postprocess is not None
        lists = {name: values.to_pylist() for name, values in columns.items()}
        made: list[Mapping[str, Any]] = []
        for number, row in enumerate(rows):
            if columns[ERROR][number].is_valid:
                made.append({})
            else:
                made.append(self._postprocess({**row, **{name: values[number] for name, values in lists.items()}}))
        names = dict.fromkeys(name for one in made for name in one)
        for name in names:
            columns[name] = column(name, [one.get(name) for one in made])
        return columns

    def _tell_on(self, tell: Tell) -> None:
        async def snapshot() -> WorkerTimes:
            return self.snapshot()

        while not self._closed.wait(_TELL_S):
            self._told(tell, asyncio.run_coroutine_threadsafe(snapshot(), self._loop).result())

    def _told(self, tell: Tell, times: WorkerTimes) -> None:
        try:
            with self._one_tells:
                tell(times)
        except Exception as error:  # noqa: BLE001 - a report is not worth a job; the next one may get through
            _LOG.warning("a worker's times are not told", reason=str(error))

    def snapshot(self) -> WorkerTimes:
        """The times until now."""
        times = self.times
        times.open_s = time.monotonic() - self._first if self._first else 0.0
        times.sender = self._sender.snapshot().as_dict()
        times.limits = self._sender.limits
        return times


def _teller(processor: str) -> Tell:
    """What is told under that name, and to Prometheus."""
    from serving.batch.stages.telling import Teller  # needs a worker of Ray

    return Teller(processor, secrets.token_hex(8))
