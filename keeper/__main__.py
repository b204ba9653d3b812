"""`python -m keeper`: one Serving Keeper process."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

from keeper.config import KeeperConfig, from_mapping, load
from keeper.process import Keeper
from serving.errors import Internal, InvalidArgument, MeshError
from serving.observe.logging import configure_logging

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2


def main(argv: list[str] | None = None) -> int:
    """Runs until SIGTERM or SIGINT. 0: ended as asked, 1: failed, 2: wrong configuration."""
    try:
        config = _config(_parser().parse_args(argv))
        configure_logging(
            level=config.log_level, file=Path(config.log_file) if config.log_file else None, process="keeper"
        )
    except MeshError as error:
        print(f"keeper: {error.message}", file=sys.stderr)
        return EXIT_USAGE
    try:
        asyncio.run(_run(config))
    except MeshError as error:
        print(f"keeper: {error.message}", file=sys.stderr)
        return EXIT_USAGE if isinstance(error, InvalidArgument) else EXIT_FAILED
    return EXIT_OK


async def _run(config: KeeperConfig) -> None:
    keeper = Keeper(config)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await keeper.start()
    print(json.dumps({"id": keeper.id, "address": keeper.address, "metrics": keeper.metrics_address}), flush=True)
    running = asyncio.create_task(keeper.run())
    asked = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([running, asked], return_when=asyncio.FIRST_COMPLETED)
    finally:
        was_asked = asked.done()
        for task in (running, asked):
            task.cancel()
        results = await asyncio.gather(running, asked, return_exceptions=True)
        await keeper.stop()
    if isinstance(results[0], Exception):
        raise results[0]
    if not was_asked:
        raise Internal(f"keeper {keeper.id} ended though nobody asked it to: start it again")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m keeper", description="The Serving Keeper of a mesh.")
    parser.add_argument("--config", type=Path, help="JSON or YAML file with the settings; flags win over it")
    parser.add_argument("--etcd", action="append", metavar="HOST:PORT", help="an etcd endpoint; may be repeated")
    parser.add_argument("--listen", metavar="HOST:PORT", help="address of the service; port 0 is any free one")
    parser.add_argument("--advertise-host", help="the host that clients are told")
    parser.add_argument("--id", help="name of this keeper; made up where it is not given")
    parser.add_argument("--metrics-listen", metavar="HOST:PORT", help="address of /metrics and /events")
    parser.add_argument("--log-file", help="standard error where it is not given")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"))
    for name in ("ca", "cert", "key"):
        parser.add_argument(f"--tls-{name}", metavar="FILE", help=f"PEM file: the service's {name}")
    return parser


def _config(arguments: argparse.Namespace) -> KeeperConfig:
    flags = _flags(arguments)
    if arguments.config is None:
        if "etcd" not in flags:
            raise InvalidArgument("say where etcd is: --etcd HOST:PORT, or --config FILE")
        return from_mapping(flags, "flags")
    base = load(arguments.config)
    if not flags:
        return base
    from dataclasses import asdict

    values = {**asdict(base), **flags}
    if "etcd" in flags:
        values["etcd"] = {**asdict(base.etcd), **flags["etcd"]}
    return from_mapping(values, "flags")


def _flags(arguments: argparse.Namespace) -> dict[str, Any]:
    names = ("listen", "advertise_host", "id", "metrics_listen", "log_file", "log_level")
    flags: dict[str, Any] = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    if arguments.etcd:
        flags["etcd"] = {"endpoints": tuple(part for item in arguments.etcd for part in item.split(","))}
    tls = {f"{name}_file": getattr(arguments, f"tls_{name}") for name in ("ca", "cert", "key")}
    if any(tls.values()):
        flags["tls"] = {name: value for name, value in tls.items() if value}
    return flags


if __name__ == "__main__":
    sys.exit(main())
