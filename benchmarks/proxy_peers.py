"""`mesh_proxy` beside Ray Serve's gRPC ingress (HAProxy, throughput mode): the same client and requests, in turn.

Behind each is one replica that gives back a tensor of 64 bytes: ours the identity model in the embedded Triton, Serve's
a Python deployment. `apart`: the processes of a side that handle requests on one CPU, the load generator on the other.
`shared`: all of them on both, as the scheduler likes. CPU is of the processes that handle requests, proxy and replica;
Ray's other processes are not counted, and run beside both sides on any CPU. One client also asks a proxy and a replica
that poll before they sleep (`busy_poll_us`), in the same rounds.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
from tritonclient.grpc import InferenceServerClient, InferInput

from benchmarks.ingress import PLACEMENTS, prepare
from benchmarks.ingress_rates import request_of
from benchmarks.load import Closed, run_chain, run_closed
from benchmarks.processes import cpu_s
from benchmarks.proxy import proxy_of
from benchmarks.results import keep_results, median_cell
from benchmarks.serve_echo import MODEL
from benchmarks.serve_peer import running_serve
from benchmarks.servers import ROOT, pin, running
from benchmarks.tools import patiently, run_load
from serving.errors import FailedPrecondition

Say = Callable[[str], None]
CLIENTS: Final = (1, 16)
_ELEMENTS: Final = 16  # of FP32: 64 bytes
_CONNECTIONS: Final = 4  # of mesh_load, at most; perf_analyzer has one for every six clients
_QUICKER: Final = 4
_CHAIN_ROUNDS: Final = 30_000
_POLLS_US: Final = 100
_SIDES: Final = ("mesh", "polling", "serve")


@dataclass(frozen=True, slots=True)
class Cell:
    """One measurement. CPU in microseconds per request, of proxy and of replica; `load_cpu` in CPUs."""

    requests_per_s: float
    p50_us: float
    p99_us: float
    proxy_cpu_us: float
    replica_cpu_us: float
    load_cpu: float


@dataclass(frozen=True, slots=True)
class Peer:
    """A proxy with one replica. `requests`: of one run by the number of clients, so that a run takes some seconds."""

    address: str
    requests: dict[int, int]
    answered: Callable[[], int]  # inference requests so far
    cpu_s: Callable[[], tuple[float, float]]  # of proxy and of replica so far
    pids: Callable[[], Iterable[int]]  # of both


@contextlib.contextmanager
def mesh_peer(busy_poll_us: int = 0) -> Iterator[Peer]:
    """Raises `FailedPrecondition`."""
    repository, backends = prepare(ROOT / "build" / "bench-ingress")
    polls = f"--busy-poll-us={busy_poll_us}"
    with (
        running("mesh", repository, backends, polls) as server,
        proxy_of(server, busy_poll_us=busy_poll_us) as proxy,
    ):
        yield Peer(
            proxy.address,
            {1: 20_000, 16: 80_000},
            lambda: server.requests(MODEL),
            lambda: (cpu_s(proxy.pid), cpu_s(server.pid)),
            lambda: (proxy.pid, server.pid),
        )


@contextlib.contextmanager
def serve_peer() -> Iterator[Peer]:
    """Raises `FailedPrecondition`."""
    with running_serve() as serve:
        yield Peer(serve.address, {1: 2_000, 16: 5_000}, serve.requests, serve.cpu_s, serve.on_the_path)


def check(peer: Peer) -> None:
    """That it gives back what it is sent. Raises `FailedPrecondition`."""
    sent = np.arange(_ELEMENTS, dtype=np.float32)
    tensor = InferInput("INPUT0", [_ELEMENTS], "FP32")
    tensor.set_data_from_numpy(sent)
    with InferenceServerClient(peer.address) as client:
        found = client.infer(MODEL, [tensor]).as_numpy("OUTPUT0")
    if found is None or found.tobytes() != sent.tobytes():
        raise FailedPrecondition(f"{peer.address} answers {found} to {sent}: what is measured there is no echo")


def by_perf_analyzer(address: str, clients: int, requests: int, cpu: str) -> Closed:
    """Raises `FailedPrecondition`, and `DeadlineExceeded` now and then (see `run_load`)."""
    found = run_load(address, MODEL, clients=clients, requests=requests, shapes={"INPUT0": str(_ELEMENTS)}, cpu=cpu)
    return Closed(1e6 * clients / found.mean_us, found.p50_us, found.p99_us, found.cpu_s)


def by_mesh_load(address: str, clients: int, requests: int, cpu: str) -> Closed:
    """Raises `FailedPrecondition`."""
    connections = min(clients, _CONNECTIONS)
    return run_closed(
        address, request_of(_ELEMENTS), clients=clients, requests=requests, connections=connections, cpu=cpu
    )


GENERATORS: Final = {"perf_analyzer": by_perf_analyzer, "mesh_load": by_mesh_load}


@dataclass(frozen=True, slots=True)
class Case:
    load_generator: str
    clients: int
    placement: str


def measure(peer: Peer, case: Case, requests: int) -> Cell:
    """After a warm-up. Raises `FailedPrecondition`, `DeadlineExceeded`."""
    return patiently(lambda: _measure(peer, case, requests))


def _measure(peer: Peer, case: Case, requests: int) -> Cell:
    servers, cpu = PLACEMENTS[case.placement]
    for pid in peer.pids():
        pin(pid, servers)
    load = GENERATORS[case.load_generator]
    load(peer.address, case.clients, requests // 5, cpu)
    (proxy_before, replica_before), before = peer.cpu_s(), peer.answered()
    found = load(peer.address, case.clients, requests, cpu)
    (proxy, replica), count = peer.cpu_s(), peer.answered() - before
    return Cell(
        found.rate,
        found.p50_us,
        found.p99_us,
        1e6 * (proxy - proxy_before) / count,
        1e6 * (replica - replica_before) / count,
        found.cpu_s * found.rate / requests,
    )


def run(quick: bool, say: Say) -> str:
    lines = [
        "| load generator | CPUs | clients | polls | requests/s mesh | Serve | ratio | p50 mesh | Serve | ratio | "
        "p99 mesh | Serve | ratio | CPU/request mesh (proxy + replica) | Serve | ratio |",
        "|" + " --- |" * 16,
    ]
    kept = []
    with mesh_peer() as mesh, mesh_peer(_POLLS_US) as polling, serve_peer() as serve:
        peers = dict(zip(_SIDES, (mesh, polling, serve), strict=True))
        for peer in peers.values():
            check(peer)
        for case in (Case(*parts) for parts in itertools.product(GENERATORS, CLIENTS, PLACEMENTS)):
            cells = _measure_case(case, peers, quick)
            kept.append({**asdict(case), **{side: [asdict(cell) for cell in found] for side, found in cells.items()}})
            for side in (side for side in _SIDES[:-1] if side in cells):
                lines.append(_row(case, side, median_cell(cells[side]), median_cell(cells[_SIDES[-1]])))
                say(lines[-1])
        chains = chain_p50_us(1 if quick else 3)
    if not quick:
        keep_results("proxy_peers", [*kept, {"chain_p50_us": chains}])
    said = ", ".join(f"{placement} {statistics.median(found):.0f} µs" for placement, found in chains.items())
    return "\n".join([*lines, "", f"A chain of three threads that only pass 200 bytes on, p50: {said}."])


def _measure_case(case: Case, peers: dict[str, Peer], quick: bool) -> dict[str, list[Cell]]:
    """By side, in turn. Raises `FailedPrecondition`, `DeadlineExceeded`."""
    asked = {side: peer for side, peer in peers.items() if case.clients == 1 or side != "polling"}
    cells: dict[str, list[Cell]] = {side: [] for side in asked}
    for _ in range(1 if quick else 3):
        for side, peer in asked.items():
            requests = peer.requests[case.clients] // (_QUICKER if quick else 1)
            cells[side].append(measure(peer, case, requests))
    return cells


def chain_p50_us(rounds: int) -> dict[str, list[float]]:
    """What no proxy between two sockets can be faster than, by placement. Raises `FailedPrecondition`."""
    return {
        placement: [run_chain(_CHAIN_ROUNDS, servers=servers, client=client) for _ in range(rounds)]
        for placement, (servers, client) in PLACEMENTS.items()
    }


def _row(case: Case, side: str, mesh: Cell, serve: Cell) -> str:
    def cpu(cell: Cell) -> float:
        return cell.proxy_cpu_us + cell.replica_cpu_us

    def parts(cell: Cell) -> str:
        return f"{cpu(cell):,.0f} µs ({cell.proxy_cpu_us:,.0f} + {cell.replica_cpu_us:,.0f})"

    return (
        f"| `{case.load_generator}` | {case.placement} | {case.clients} | "
        f"{f'{_POLLS_US} µs' if side == 'polling' else '–'} | "
        f"{mesh.requests_per_s:,.0f} | {serve.requests_per_s:,.0f} | "
        f"**{mesh.requests_per_s / serve.requests_per_s:.1f}** | "
        f"{mesh.p50_us:,.0f} µs | {serve.p50_us:,.0f} µs | **{mesh.p50_us / serve.p50_us:.3f}** | "
        f"{mesh.p99_us:,.0f} µs | {serve.p99_us:,.0f} µs | {mesh.p99_us / serve.p99_us:.3f} | "
        f"{parts(mesh)} | {parts(serve)} | {cpu(mesh) / cpu(serve):.3f} |"
    )
