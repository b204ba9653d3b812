"""`python -m serving.cluster_agent`: the agent of one Ray cluster, until SIGTERM.

Exit status: 0 after SIGTERM, 2 for a wrong configuration, 3 when the cluster has another agent, 1 for anything else.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from serving.cluster_agent.agent import Agent
from serving.cluster_agent.config import AgentConfig, build
from serving.cluster_agent.identity import AgentId
from serving.cluster_agent.ray_side import RaySide, prepare_environment
from serving.errors import AlreadyExists, FailedPrecondition, InvalidArgument, MeshError
from serving.observe.logging import configure_logging
from serving.settings import read_settings
from serving.timeouts import wait_for

_LOG: Final = logging.getLogger("serving.cluster_agent")
EXIT_CONFIGURATION: Final = 2
EXIT_SECOND_AGENT: Final = 3
_WITHDRAW_S: Final = 5.0


def parse(arguments: Sequence[str]) -> AgentConfig:
    """The configuration file, with what flags say on top. Raises `InvalidArgument`."""
    parser = argparse.ArgumentParser(
        prog="python -m serving.cluster_agent", description="The agent of one Ray cluster."
    )
    parser.add_argument("--config", type=Path, help="JSON or YAML file; flags win over it")
    parser.add_argument("--cluster", help="the cluster's name in the mesh")
    parser.add_argument("--mesh", help="the mesh's name: keeps meshes that share a Ray cluster apart")
    parser.add_argument("--ray-address", help="host:port of the cluster's GCS")
    parser.add_argument("--ray-token-file", help="file with the cluster's authentication token")
    parser.add_argument("--etcd", help="host:port,host:port")
    parser.add_argument("--labels", help="key=value,key=value")
    parser.add_argument("--mesh-dir", help="folder for logs and the artifact cache")
    parser.add_argument("--library", help="libmesh_actor.so")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"))
    flags = vars(parser.parse_args(arguments))
    path = flags.pop("config")
    values: dict[str, Any] = dict(_table(path)) if path else {}
    for name, text in flags.items():
        if text is not None:
            values[name] = text
    if isinstance(values.get("etcd"), str):
        values["etcd"] = {"endpoints": values["etcd"].split(",")}
    if isinstance(values.get("labels"), str):
        values["labels"] = _labels(values["labels"])
    return build(values, str(path or "command line"))


def _table(path: Path) -> Mapping[str, Any]:
    values = read_settings(path)
    if not isinstance(values, Mapping):
        raise InvalidArgument(f"{path}: a table of settings is wanted")
    return values


def _labels(text: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in text.split(",") if part]
    if any(not mark for _, mark, _ in pairs):
        raise InvalidArgument(f"--labels wants key=value,key=value, not {text!r}")
    return {key: value for key, _, value in pairs}


async def serve(config: AgentConfig) -> None:
    """Until SIGTERM or SIGINT; then the record is taken back, and everything that runs in the cluster goes on."""
    agent_id = str(AgentId.mine())
    ray_side = RaySide(config)
    agent = Agent(config, agent_id, ray_side)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    run = asyncio.create_task(agent.run())
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait({run, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    try:
        if run.done():
            run.result()
    finally:
        with contextlib.suppress(asyncio.TimeoutError, MeshError):
            await wait_for(agent.withdraw(), _WITHDRAW_S)
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)
        with contextlib.suppress(asyncio.TimeoutError, MeshError):
            await wait_for(ray_side.close(), _WITHDRAW_S)


def main(arguments: Sequence[str] | None = None) -> int:
    try:
        config = parse(sys.argv[1:] if arguments is None else arguments)
        file = Path(config.log_file) if config.log_file else None
        configure_logging(level=config.log_level, file=file, process="agent", cluster=config.cluster)
        logging.getLogger("grpc").setLevel(logging.INFO)  # below it, it tells of every loop
        prepare_environment(config)
        asyncio.run(serve(config))
    except (InvalidArgument, FailedPrecondition) as error:
        print(f"cluster agent: {error.message}", file=sys.stderr)
        return EXIT_CONFIGURATION
    except AlreadyExists as error:
        print(f"cluster agent: {error.message}", file=sys.stderr)
        return EXIT_SECOND_AGENT
    return 0


if __name__ == "__main__":
    sys.exit(main())
