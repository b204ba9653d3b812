"""What a proxy hop costs: the same requests to a replica directly and through `mesh_proxy`, in turn.

Replica and proxy are pinned to one CPU, the load generator to the other. CPU is the proxy's own time per request; the
latencies include everything.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Final

from benchmarks.ingress import SIZES, prepare
from benchmarks.processes import cpu_s
from benchmarks.results import keep_results, median_cell
from benchmarks.servers import ROOT, Server, built, pin, running
from benchmarks.tools import Load, patiently, run_load
from serving.errors import FailedPrecondition

Say = Callable[[str], None]
CLIENTS: Final = (1, 8, 32)
_MOST_ELEMENTS: Final = 8 * 2_621_440
_STOP_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Cell:
    """One measurement. CPU in microseconds of the proxy's time per request; 0 for the direct path."""

    cpu_us: float
    requests_per_s: float
    p50_us: float
    p99_us: float


@dataclass(frozen=True, slots=True)
class Proxy:
    address: str
    pid: int


@contextlib.contextmanager
def running_proxy(replicas: list[str], *, busy_poll_us: int = 0) -> Iterator[Proxy]:
    """In front of replicas with these addresses. Raises `FailedPrecondition`."""
    folder = ROOT / "build" / "bench-proxy"
    folder.mkdir(parents=True, exist_ok=True)
    names = {"id": "bench-0", "namespace": "default", "application": "bench", "deployment": "grpc"}
    config = {**names, "endpoints": replicas, "busyPollUs": busy_poll_us}
    (folder / "proxy.json").write_text(json.dumps(config))
    command = [str(built("proxy", "mesh_proxy")), str(folder / "proxy.json")]
    with (folder / "proxy.log").open("ab") as log:  # of all that run
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
    try:
        line = process.stdout.readline() if process.stdout else b""
        if not line:
            raise FailedPrecondition(f"mesh_proxy did not start; see {folder / 'proxy.log'}")
        yield Proxy(json.loads(line)["address"], process.pid)
    finally:
        process.terminate()
        process.wait(_STOP_S)


def proxy_of(server: Server, *, busy_poll_us: int = 0) -> contextlib.AbstractContextManager[Proxy]:
    """A proxy in front of one replica. Raises `FailedPrecondition`."""
    return running_proxy([server.address], busy_poll_us=busy_poll_us)


def measure(server: Server, proxy: Proxy | None, elements: int, clients: int, requests: int) -> Cell:
    """Through the proxy, or directly. Raises `FailedPrecondition`, `DeadlineExceeded`."""
    return patiently(lambda: _measure(server, proxy, elements, clients, requests))


def _measure(server: Server, proxy: Proxy | None, elements: int, clients: int, requests: int) -> Cell:
    address = proxy.address if proxy else server.address

    def load(count: int) -> Load:
        return run_load(address, "identity", clients=clients, requests=count, shapes={"INPUT0": str(elements)}, cpu="1")

    load(max(clients, requests // 20))
    before, count = cpu_s(proxy.pid) if proxy else 0.0, server.requests("identity")
    found = load(requests)
    used = cpu_s(proxy.pid) - before if proxy else 0.0
    return Cell(
        1e6 * used / (server.requests("identity") - count), 1e6 * clients / found.mean_us, found.p50_us, found.p99_us
    )


def run(quick: bool, say: Say) -> str:
    repository, backends = prepare(ROOT / "build" / "bench-ingress")
    rounds = 1 if quick else 3
    lines = [
        "| tensor | clients | proxy CPU/request | requests/s direct | proxied | p50 direct | proxied | added | ratio | "
        "p99 direct | proxied |",
        "|" + " --- |" * 11,
    ]
    kept = []
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(running("mesh", repository, backends))
        proxy = stack.enter_context(proxy_of(server))
        pin(server.pid, "0")
        pin(proxy.pid, "0")
        for size, (elements, count) in SIZES.items():
            for clients in (n for n in CLIENTS if n * elements <= _MOST_ELEMENTS):
                requests = max(count // (4 if quick else 1), clients)
                direct, proxied = [], []
                for _ in range(rounds):
                    direct.append(measure(server, None, elements, clients, requests))
                    proxied.append(measure(server, proxy, elements, clients, requests))
                kept.append({"size": size, "clients": clients, "direct": [asdict(cell) for cell in direct]})
                kept[-1]["proxied"] = [asdict(cell) for cell in proxied]
                lines.append(_row(size, clients, median_cell(direct), median_cell(proxied)))
                say(lines[-1])
    if not quick:
        keep_results("proxy", kept)
    return "\n".join(lines)


def _row(size: str, clients: int, direct: Cell, proxied: Cell) -> str:
    return (
        f"| {size} | {clients} | **{proxied.cpu_us:,.0f} µs** | {direct.requests_per_s:,.0f} | "
        f"{proxied.requests_per_s:,.0f} | {direct.p50_us:,.0f} µs | {proxied.p50_us:,.0f} µs | "
        f"**{proxied.p50_us - direct.p50_us:+,.0f} µs** | {proxied.p50_us / direct.p50_us:.2f} | "
        f"{direct.p99_us:,.0f} µs | {proxied.p99_us:,.0f} µs |"
    )
