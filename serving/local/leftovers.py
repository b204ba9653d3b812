"""Processes that a mesh left running when its supervisor was killed."""

from __future__ import annotations

from collections.abc import Callable

from serving.local.process import stop_group
from serving.local.state import MeshState


def end_leftovers(state: MeshState, on_progress: Callable[[str], None]) -> None:
    """Ends what is still running of a mesh whose supervisor is gone; strangers with the same pids never."""
    for record in state.processes:
        if record.role != "supervisor" and record.identity.members():
            on_progress(f"ending {record.name}, left over from a mesh whose supervisor is gone")
            stop_group(record.identity)
