"""What a detached supervisor reports to the process that waits for its mesh: one JSON object per line."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import IO

from serving.errors import Internal, MeshError, error_for_code


def reported_error(error: BaseException) -> dict[str, object]:
    """An error as the supervisor reports it to the process that waits for it."""
    if isinstance(error, MeshError):
        return {"error": error.message, "code": int(error.code)}
    return {"error": f"{type(error).__name__}: {error}", "code": int(Internal.code)}


def follow_start(events: IO[bytes], on_progress: Callable[[str], None]) -> bool:
    """True when the supervisor says that the mesh is ready, False when it says nothing more. Raises its error."""
    for line in events:
        event = json.loads(line)
        if "progress" in event:
            on_progress(str(event["progress"]))
        elif "error" in event:
            raise error_for_code(int(event["code"]), str(event["error"]))
        elif event.get("ready"):
            return True
    return False
