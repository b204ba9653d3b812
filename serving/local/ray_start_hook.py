"""What a local Ray head leaves out. Ray calls `apply` through `RAY_START_HOOK`, in the process of `ray start`."""

from __future__ import annotations

from typing import Any


def apply(params: Any, head: bool) -> None:  # noqa: ARG001 - Ray gives both
    """Takes the Ray Client server out: no flag of `ray start` does, and drivers of the mesh join the cluster itself."""
    params.ray_client_server_port = None
