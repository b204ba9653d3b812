"""`python -m serving.llm CONFIG.json`: one replica of a language model as a process of its own, without Ray.

Prints a `ReplicaReport` as a line of JSON whenever more than its load changes. SIGTERM and SIGINT drain it, and end it.
"""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from typing import Final

from serving._proto import records_pb2 as pb
from serving.errors import MeshError
from serving.llm.replica import LlmReplica
from serving.python_deployment.settings import DEFAULT_DRAIN_S, read_config
from serving.store.records import decode, encode

_LOOK_S: Final = 0.02
EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2


def main(arguments: list[str]) -> int:
    """0: drained, 1: it could not start, 2: wrong configuration."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print(__doc__, file=sys.stderr)
        return EXIT_OK if arguments in (["-h"], ["--help"]) else EXIT_USAGE
    try:
        config = read_config(Path(arguments[0]).read_text(encoding="utf-8"), "llm")
    except (OSError, MeshError) as error:
        print(f"{arguments[0]}: {error}", file=sys.stderr)
        return EXIT_USAGE
    drained = threading.Event()
    replica = LlmReplica(config, node_address="127.0.0.1", on_drained=drained.set)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: replica.drain(config.drain_timeout_s or DEFAULT_DRAIN_S))
    replica.start()
    told = ""
    failed = False
    while not drained.wait(_LOOK_S):
        report = _report(replica)
        if report.state == "failed" and not failed:
            failed = True
            replica.drain(0.0)
        told = _tell(report, told)
    _tell(_report(replica), told)
    return EXIT_FAILED if failed else EXIT_OK


def _report(replica: LlmReplica) -> pb.ReplicaReport:
    report = decode(pb.ReplicaReport, replica.report().encode())
    report.ClearField("load")
    report.ClearField("in_flight")
    return report


def _tell(report: pb.ReplicaReport, told: str) -> str:
    text = encode(report).decode()
    if text != told:
        print(text, flush=True)
    return text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
