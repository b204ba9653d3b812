"""`python -m serving.gateway`: one gateway process."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from serving.errors import Internal, InvalidArgument, MeshError
from serving.gateway.config import GatewayConfig, from_mapping, load
from serving.gateway.parts import raise_descriptor_limit
from serving.gateway.process import Gateway
from serving.observe import configure_logging

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2


def main(argv: list[str] | None = None) -> int:
    """Runs until SIGTERM or SIGINT. 0: ended as asked, 1: failed, 2: wrong configuration."""
    try:
        config = _config(_parser().parse_args(argv))
        file = Path(config.log_file) if config.log_file else None
        configure_logging(level=config.log_level, file=file, process="gateway")
        raise_descriptor_limit()
        asyncio.run(_run(config))
    except MeshError as error:
        print(f"gateway: {error.message}", file=sys.stderr)
        return EXIT_USAGE if isinstance(error, InvalidArgument) else EXIT_FAILED
    return EXIT_OK


async def _run(config: GatewayConfig) -> None:
    gateway = Gateway(config)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        await gateway.start()
        print(json.dumps({"address": gateway.address}), flush=True)
        asked, ended = asyncio.ensure_future(stop.wait()), asyncio.ensure_future(gateway.wait_ended())
        await asyncio.wait({asked, ended}, return_when=asyncio.FIRST_COMPLETED)
        for task in (asked, ended):
            task.cancel()
        if not stop.is_set():
            raise Internal("a part of the gateway ended by itself; see its log")
    finally:
        await gateway.stop()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m serving.gateway",
        description="A gateway of a mesh: OpenAI's HTTP protocol on one address for the models of all applications.",
    )
    parser.add_argument("--config", type=Path, help="JSON or YAML file with the settings; flags win over it")
    parser.add_argument("--etcd", action="append", metavar="HOST:PORT", help="an etcd endpoint; may be repeated")
    parser.add_argument("--listen", metavar="HOST:PORT", help="address of the service; port 0 is any free one")
    parser.add_argument("--namespace", action="append", help="offer the models of this namespace only; may be repeated")
    parser.add_argument(
        "--require-keys",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="whether clients need an API key; where it is not given, they do unless it listens on loopback",
    )
    parser.add_argument("--log-file", help="standard error where it is not given")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"))
    return parser


def _config(arguments: argparse.Namespace) -> GatewayConfig:
    flags: dict[str, Any] = {}
    for name in ("listen", "require_keys", "log_file", "log_level"):
        if getattr(arguments, name) is not None:
            flags[name] = getattr(arguments, name)
    if arguments.namespace:
        flags["namespaces"] = tuple(arguments.namespace)
    if arguments.etcd:
        flags["etcd"] = {"endpoints": tuple(part for item in arguments.etcd for part in item.split(","))}
    if arguments.config is not None:
        base = asdict(load(arguments.config))
        if "etcd" in flags:
            flags["etcd"] = {**base["etcd"], **flags["etcd"]}
        return from_mapping({**base, **flags}, "flags") if flags else load(arguments.config)
    if "etcd" not in flags:
        raise InvalidArgument("say where etcd is: --etcd HOST:PORT, or --config FILE")
    return from_mapping(flags, "flags")


if __name__ == "__main__":
    sys.exit(main())
