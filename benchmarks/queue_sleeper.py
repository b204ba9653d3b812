"""What the replicas of all sides do: one request at a time, for as long as it says."""

from __future__ import annotations

import time
from typing import Any

from serving.python_deployment import Request

MODEL = "worker"


class Sleeper:
    """With `threads: 1` one request at a time. Sleeping needs no CPU, so that eight of them fit on two."""

    def infer(self, request: Request) -> dict[str, Any]:
        time.sleep(float(request["seconds"][0]))
        return {"seconds": request["seconds"]}
