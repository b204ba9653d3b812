"""One replica as a process of its own, without Ray: what the `__main__` modules of deployments are made of."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

from serving._proto import records_pb2 as pb
from serving.errors import MeshError
from serving.python_deployment.replica import Replica
from serving.python_deployment.settings import DEFAULT_DRAIN_S, read_config
from serving.store.records import encode

_LOOK_S: Final = 0.1
EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2


class ReplicaKind(Protocol):
    """A class of replicas."""

    def __call__(self, config: pb.ReplicaConfig, *, node_address: str, on_drained: Callable[[], None]) -> Replica: ...


def run_standalone(arguments: Sequence[str], usage: str, kind: str, make: ReplicaKind) -> int:
    """Runs the replica of the file that is the one argument until it has drained, which SIGTERM and SIGINT ask for.

    Prints a `ReplicaReport` as a line of JSON whenever more than its load changes. 0: drained, 1: it could not start,
    2: wrong configuration.
    """
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print(usage, file=sys.stderr)
        return EXIT_OK if arguments in (["-h"], ["--help"]) else EXIT_USAGE
    try:
        config = read_config(Path(arguments[0]).read_text(encoding="utf-8"), kind)
    except (OSError, MeshError) as error:
        print(f"{arguments[0]}: {error}", file=sys.stderr)
        return EXIT_USAGE
    drained = threading.Event()
    replica = make(config, node_address="127.0.0.1", on_drained=drained.set)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: replica.drain(config.drain_timeout_s or DEFAULT_DRAIN_S))
    replica.start()
    told = pb.ReplicaReport()
    failed = False
    while not drained.wait(_LOOK_S):
        report = _report(replica)
        if report.state == "failed" and not failed:
            failed = True
            replica.drain(0.0)
        told = _tell(report, told)
    _tell(_report(replica), told)
    return EXIT_FAILED if failed else EXIT_OK


def _report(replica: Replica) -> pb.ReplicaReport:
    report = replica.report_record()
    report.ClearField("load")
    report.ClearField("in_flight")
    return report


def _tell(report: pb.ReplicaReport, told: pb.ReplicaReport) -> pb.ReplicaReport:
    """Compared as messages: as text each look would cost a small replica more than its work does."""
    if report != told:
        print(encode(report).decode(), flush=True)
    return report
