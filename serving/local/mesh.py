"""A whole mesh on one machine: started, looked up and ended. What `mesh up`, `mesh down` and tests call.

A supervisor process owns everything else (etcd, Ray clusters, keepers, agents). It holds a lock on the mesh's folder,
so that there is one at a time, and writes `mesh.json`. Data stays in the folder: the next `up` finds the applications.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Final

from serving.errors import AlreadyExists, DeadlineExceeded, Internal, MeshError, NotFound
from serving.local.leftovers import end_leftovers
from serving.local.options import UpOptions
from serving.local.process import log_tail
from serving.local.start_report import follow_start
from serving.local.state import STATE_FILE, MeshState, load_state
from serving.local.supervisor import Supervisor, make_mesh_dir
from serving.observe import configure_logging
from serving.process_id import ProcessId

Progress = Callable[[str], None]
SUPERVISOR_LOG: Final = "logs/supervisor.log"
_STOP_TIMEOUT_S: Final = 90.0
_POLL_S: Final = 0.1

__all__ = ["MeshState", "UpOptions", "down", "load_state", "run_foreground", "up"]


def up(options: UpOptions, on_progress: Progress) -> MeshState:
    """Starts a mesh that goes on after this process ends; returns when it can take applications.

    Raises `AlreadyExists` when one runs in the folder, else the error that stopped the start. What interrupts it before
    that, such as Ctrl-C, ends what was started.
    """
    options.validate()
    _refuse_second(options.mesh_dir)
    make_mesh_dir(options.mesh_dir)
    log_file = options.mesh_dir / SUPERVISOR_LOG
    log_file.parent.mkdir(parents=True, exist_ok=True)
    arguments = json.dumps(asdict(options), default=str)
    with log_file.open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "serving.local.supervisor", arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
    if child.stdout is None:
        raise Internal("the supervisor was started without a pipe to report on")
    with child.stdout as events:
        try:
            if follow_start(events, on_progress):
                return load_state(options.mesh_dir)
        except MeshError:
            child.wait()  # it has ended everything before it said so
            raise
        except BaseException:
            _end_start(child, on_progress)
            raise
    status = child.wait()
    raise Internal(f"the supervisor ended with status {status} before the mesh was ready:\n{log_tail(log_file)}")


def _end_start(child: subprocess.Popen[bytes], on_progress: Progress) -> None:
    """Nobody would know of a supervisor that goes on: it is told to end, and waited for."""
    on_progress("ending what was started")
    child.terminate()
    try:
        child.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise DeadlineExceeded(
            f"the supervisor (pid {child.pid}) did not end within {_STOP_TIMEOUT_S:g} s: end it with `mesh down`"
        ) from error


def run_foreground(options: UpOptions, on_progress: Progress, on_ready: Callable[[MeshState], None]) -> None:
    """Starts a mesh, calls `on_ready`, and keeps it until SIGINT or SIGTERM; ends everything before it returns."""
    options.validate()
    _refuse_second(options.mesh_dir)
    configure_logging(level="warning", process="supervisor")
    stop = threading.Event()
    previous = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    supervisor = Supervisor(options, on_progress)
    try:
        on_ready(supervisor.start(stop))
        supervisor.watch(stop)
    finally:
        supervisor.stop()
        for number, handler in previous.items():
            signal.signal(number, handler)


def down(mesh_dir: Path, on_progress: Progress) -> None:
    """Ends the mesh of a folder, and what an earlier crash left of one. Raises `NotFound` when there is none."""
    state = load_state(mesh_dir)
    supervisor = state.supervisor
    if supervisor is not None and supervisor.identity.alive():
        on_progress(f"stopping the mesh in {mesh_dir}")
        os.kill(supervisor.identity.pid, signal.SIGTERM)
        if not _wait_gone(supervisor.identity, _STOP_TIMEOUT_S):
            raise DeadlineExceeded(
                f"the supervisor (pid {supervisor.identity.pid}) did not end within {_STOP_TIMEOUT_S:g} s; "
                f"see {mesh_dir / SUPERVISOR_LOG}"
            )
    end_leftovers(state, on_progress)
    (mesh_dir / STATE_FILE).unlink(missing_ok=True)


def _refuse_second(mesh_dir: Path) -> None:
    try:
        state = load_state(mesh_dir)
    except NotFound:
        return
    if state.running() and state.supervisor is not None:
        raise AlreadyExists(
            f"a mesh already runs in {mesh_dir} (supervisor pid {state.supervisor.identity.pid}): use it, end it with "
            f"`mesh down --dir {mesh_dir}`, or choose another folder with --dir"
        )


def _wait_gone(identity: ProcessId, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while identity.alive():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True
