"""A broker beside who pushes and beside Ray Serve: eight processes that sleep, short requests among long ones.

All sides get the same requests at the same times, one side after the other; a simulated ideal queue gets them, too.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import takewhile
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from benchmarks import broker_simulation as simulation
from benchmarks import celery_peer
from benchmarks.broker_simulator import OBJECTIVE, p99
from benchmarks.queue_load import MEDIAN_S, Cell
from benchmarks.queue_mesh import MeshParts, running_mesh
from benchmarks.results import keep_results
from benchmarks.servers import ROOT
from serving.errors import FailedPrecondition
from serving.local.ray_cluster import RayClusterOptions, start_ray_cluster

Say = Callable[[str], None]
Measure = Callable[[Cell], simulation.Outcome]
_LOADS: Final = (0.5, 0.65, 0.8, 0.95)
_QUICK_LOADS: Final = (0.5, 0.8)
_STEPS: Final = (0.05, 0.1, 0.2, 0.35, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)  # of goodput
_CLIENTS: Final = (16, 64)
_REQUESTS: Final = 800
_QUICK_REQUESTS: Final = 300
_SEED: Final = 3  # one with which ideal queues get about as far as with 100,000 requests
_WARM: Final = Cell("log-normal", 200, 1, clients=16)
_FOLDER: Final = ROOT / "build" / "bench-queue"


@dataclass(slots=True)
class Row:
    """Times in medians of short requests. `goodput`: the highest of the loads of `_STEPS` at which the objective is
    held, as at all lower ones; 0: at none of them.
    """

    times: simulation.Times
    side: str
    goodput: float = 0.0
    loads: dict[str, tuple[float, float, float, float]] = field(default_factory=dict)  # mean, p99: short, long ones
    clients: dict[str, tuple[float, float, float, float, float]] = field(default_factory=dict)  # also requests a second
    missing: str = ""  # why it could not be run


# -------------------------------------------------------------------------------------------------------- sides


@contextlib.contextmanager
def _client(side: str, arguments: list[str], log: Path, env: dict[str, str] | None = None) -> Iterator[Measure]:
    """`benchmarks.queue_client` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.queue_client", side, *arguments]
    whole = {**os.environ, **(env or {})}
    with log.open("w") as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT, env=whole
        )
    assert process.stdin is not None
    assert process.stdout is not None
    requests, answers = process.stdin, process.stdout

    def answer() -> dict[str, Any]:
        for line in answers:
            if line.startswith("{"):  # Ray prints there, too
                found: dict[str, Any] = json.loads(line)
                return found
        raise FailedPrecondition(f"{side}: its client ended: {log.read_text()[-600:].strip()}; see {log}")

    def measure(cell: Cell) -> simulation.Outcome:
        requests.write(json.dumps(asdict(cell)) + "\n")
        requests.flush()
        return simulation.Outcome(**answer())

    try:
        answer()
        measure(_WARM)
        yield measure
    finally:
        requests.close()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def _ours(side: str, part: Callable[[], contextlib.AbstractContextManager[list[str]]]) -> Iterator[Measure]:
    with part() as arguments, _client(side, arguments, _FOLDER / f"{side}.log") as measure:
        yield measure


@contextlib.contextmanager
def _of_serve(side: str, say: Say) -> Iterator[Measure]:
    """On a Ray cluster of its own."""
    env = {"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1", "RAY_SERVE_LOG_TO_STDERR": "0", "RAY_worker_niceness": "0"}
    with contextlib.ExitStack() as stack:
        arguments = []
        if side == "serve_celery":
            celery_peer.install(say)
            paths = [str(ROOT), str(celery_peer.PACKAGES), os.environ.get("PYTHONPATH", "")]
            env["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
            arguments.append(stack.enter_context(celery_peer.running_redis(_FOLDER / "redis")))
        options = RayClusterOptions(env=env, die_with_parent=True)
        cluster = start_ray_cluster("bench-queue", _FOLDER / "ray" / side, options=options)
        stack.callback(cluster.stop)
        whole = {**env, **cluster.client_env, "RAY_ADDRESS": cluster.address}
        yield stack.enter_context(_client(side, arguments, _FOLDER / f"{side}.log", whole))


@contextlib.contextmanager
def _simulated(make: Callable[[], simulation.Dispatch]) -> Iterator[Measure]:
    """The same requests at the same times, as if nothing but sleeping took any."""

    def measure(cell: Cell) -> simulation.Outcome:
        work = simulation.Work(cell.times, cell.seed)
        if cell.clients:
            found = simulation.closed_loop(make(), work, cell.requests, cell.clients)
        else:
            found = simulation.open_loop(make(), work, cell.requests, cell.simulated_rate())
        scale = MEDIAN_S / simulation.MEDIAN_S
        short, long = ([seconds * scale for seconds in times] for times in (found.short, found.long))
        return simulation.Outcome(short, long, found.took_s * scale)

    yield measure


def _sides(mesh: MeshParts, say: Say) -> dict[str, Callable[[], contextlib.AbstractContextManager[Measure]]]:
    return {
        "simulated: ideal FIFO": partial(_simulated, lambda: simulation.SingleQueue(False)),
        "simulated: ideal, shortest first": partial(_simulated, lambda: simulation.SingleQueue(True)),
        "simulated: broker": partial(_simulated, simulation.Pulled),
        "broker": partial(_ours, "broker", partial(mesh.broker, 0)),
        "broker, per_replica 1": partial(_ours, "broker", partial(mesh.broker, 1)),
        "push, round robin": partial(_ours, "round_robin", mesh.alone),
        "push, random": partial(_ours, "at_random", mesh.alone),
        "push, our proxy (two choices)": partial(_ours, "round_robin", mesh.proxy),
        "Ray Serve, RoundRobinRouter": partial(_of_serve, "serve_round_robin", say),
        "Ray Serve, CapacityQueueRouter": partial(_of_serve, "serve_capacity_queue", say),
        "Ray Serve, task_consumer (Celery, Redis)": partial(_of_serve, "serve_celery", say),
    }


# ------------------------------------------------------------------------------------------------- measurements


def run(quick: bool, say: Say) -> str:
    return _run("log-normal", "broker_peers", quick, say)


def run_pareto(quick: bool, say: Say) -> str:
    return _run("bounded Pareto", "broker_peers_pareto", quick, say)


def _run(times: simulation.Times, name: str, quick: bool, say: Say) -> str:
    shutil.rmtree(_FOLDER, ignore_errors=True)
    rows: list[Row] = []
    with running_mesh(_FOLDER / "mesh") as mesh:
        for side, running in _sides(mesh, say).items():
            rows.append(measured_side(Row(times, side), running, quick, say))
            if not quick:
                keep_results(name, [asdict(row) for row in rows])
    return f"{_heading(times)}\n\n{table(rows)}"


def measured_side(
    row: Row, running: Callable[[], contextlib.AbstractContextManager[Measure]], quick: bool, say: Say
) -> Row:
    """A peer that cannot be run says why."""
    try:
        with running() as measure:
            fill(row, measure, quick, say)
    except FailedPrecondition as error:
        if not row.side.startswith("Ray Serve"):
            raise
        row.missing = str(error)
        say(f"{row.side}: could not be run: {error}")
    return row


def fill(row: Row, measure: Measure, quick: bool, say: Say) -> None:
    cell = Cell(row.times, _QUICK_REQUESTS if quick else _REQUESTS, _SEED)

    def at(load: float) -> float:
        """p99 of short ones."""
        if f"{load:.2f}" not in row.loads:
            row.loads[f"{load:.2f}"] = by_class(measure(replace(cell, load=load)))
            say(f"{row.times}, {row.side}: {load:.0%}: short p99 {row.loads[f'{load:.2f}'][1]:.1f} medians")
        return row.loads[f"{load:.2f}"][1]

    for load in _QUICK_LOADS if quick else _LOADS:
        at(load)
    row.goodput = goodput(at, _QUICK_LOADS if quick else _STEPS)
    for clients in _CLIENTS[:1] if quick else _CLIENTS:
        outcome = measure(replace(cell, clients=clients))
        row.clients[str(clients)] = (*by_class(outcome), cell.requests / outcome.took_s)
        say(f"{row.times}, {row.side}: {clients} clients: {cell.requests / outcome.took_s:.0f} requests/s")


def goodput(short_p99: Callable[[float], float], steps: tuple[float, ...]) -> float:
    """The highest of `steps`, which rise, at which the objective is held as at each lower one; 0: none.

    Upwards, and none after the first that fails: with few requests one may fail below others that hold.
    """
    held = list(takewhile(lambda load: short_p99(load) <= OBJECTIVE, steps))
    return held[-1] if held else 0.0


def by_class(outcome: simulation.Outcome) -> tuple[float, float, float, float]:
    """In medians: mean and p99 of short ones, mean and p99 of long ones."""
    short, long = outcome.short, outcome.long
    return fmean(short) / MEDIAN_S, p99(short) / MEDIAN_S, fmean(long) / MEDIAN_S, p99(long) / MEDIAN_S


def _heading(times: str) -> str:
    what = f"Short requests {times} with a median of {MEDIAN_S * 1e3:.0f} ms, 1 % of all 100 times as long"
    return f"{what}, {simulation.REPLICAS} replicas; times in medians of short requests"


def table(rows: list[Row]) -> str:
    shown = [f"{load:.2f}" for load in _LOADS if f"{load:.2f}" in rows[0].loads]
    head = ["side", "goodput", "of round robin", "of the ideal queue"]
    head += [f"short p99 at {float(load):.0%}" for load in shown]
    head += [f"short mean, long mean, long p99 at {float(shown[-1]):.0%}"]
    head += [f"{clients} clients: requests/s, short p99" for clients in rows[0].clients]
    found = {row.side: row.goodput for row in rows}
    ideal = max(found["simulated: ideal FIFO"], found["simulated: ideal, shortest first"])
    lines = [head, ["---"] * len(head)]
    for row in rows:
        if row.missing:
            lines.append([row.side, f"not run: {row.missing}", *[""] * (len(head) - 2)])
            continue
        last = row.loads[shown[-1]]
        lines.append([row.side, *_goodput_cells(row.goodput, found["push, round robin"], ideal)])
        lines[-1] += [f"{row.loads[load][1]:.1f}" for load in shown]
        lines[-1] += [f"{last[0]:.1f}, {last[2]:.0f}, {last[3]:.0f}"]
        lines[-1] += [f"{cell[4]:.0f}, {cell[1]:.1f}" for cell in row.clients.values()]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _goodput_cells(found: float, round_robin: float, ideal: float) -> list[str]:
    """Below the lowest load that is tried a ratio is only known from one side."""
    least = _STEPS[0]
    of_round_robin = found / round_robin if round_robin else found / least
    ratio = "–" if not found else f"{'' if round_robin else '> '}{of_round_robin:.1f}"
    return [f"{found:.0%}" if found else f"< {least:.0%}", ratio, f"{found / ideal:.2f}" if ideal and found else "–"]
