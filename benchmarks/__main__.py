"""`make bench`: runs the benchmarks and prints their tables. `python -m benchmarks --help` for one of them."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from pathlib import Path

from serving.errors import MeshError

BENCHMARKS = {
    "broker_queue": ("benchmarks.broker_queue", "run"),
    "broker_simulator": ("benchmarks.broker_simulator", "run"),
    "broker_peers": ("benchmarks.broker_peers", "run"),
    "broker_peers_pareto": ("benchmarks.broker_peers", "run_pareto"),
    "broker_capacity": ("benchmarks.broker_capacity", "run"),
    "batch_rows": ("benchmarks.batch_rows", "run"),
    "batch_sharing": ("benchmarks.batch_sharing", "run"),
    "batch_sharing_engine": ("benchmarks.batch_sharing_engine", "run"),
    "ingress": ("benchmarks.ingress", "run"),
    "ingress_http": ("benchmarks.ingress", "run_http"),
    "ingress_shared_memory": ("benchmarks.ingress", "run_shared_memory"),
    "ingress_memory": ("benchmarks.ingress_memory", "run"),
    "ingress_rates": ("benchmarks.ingress_rates", "run"),
    "streams": ("benchmarks.streams", "run"),
    "overload": ("benchmarks.overload", "run"),
    "proxy": ("benchmarks.proxy", "run"),
    "proxy_peers": ("benchmarks.proxy_peers", "run"),
    "mesh": ("benchmarks.mesh_timings", "run"),
    "openai": ("benchmarks.openai_gateway", "run"),
    "prefix": ("benchmarks.prefix_routing", "run"),
    "semantic_cache": ("benchmarks.semantic_cache", "run"),
    "semantic_cache_gateway": ("benchmarks.semantic_cache_gateway", "run"),
    "updates": ("benchmarks.model_updates", "run"),
}


def machine() -> str:
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        "unknown CPU",
    )
    return f"{os.cpu_count()} × {model}, load {os.getloadavg()[0]:.1f}, {time.strftime('%Y-%m-%d')}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"which ones; all by default: {', '.join(BENCHMARKS)}")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, for a look")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(BENCHMARKS))
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are: {', '.join(BENCHMARKS)}")
    print(f"Machine: {machine()}\n", flush=True)
    for name in options.names or BENCHMARKS:
        try:
            module, function = BENCHMARKS[name]
            run = getattr(importlib.import_module(module), function)
            table = run(options.quick, lambda text: print(f"  {text}", file=sys.stderr, flush=True))
        except MeshError as error:
            print(f"benchmark {name}: {error}", file=sys.stderr)
            return 1
        print(f"## {name}\n\n{table}\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
