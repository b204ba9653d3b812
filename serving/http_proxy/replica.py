"""One HTTP proxy of an application: the life of its process.

States as those of a Python replica; "loading" lasts until it knows what etcd holds, so that a rollout never replaces a
proxy that knows where to send requests by one that does not.
"""

from __future__ import annotations

import time

from serving.http_proxy.parts import HttpProxyParts
from serving.python_deployment.replica import Replica


class HttpProxyReplica(Replica):
    """All methods may be called from any thread and answer at once, but for `stop`. Nothing raises."""

    async def _become_ready(self) -> None:
        self._begin_log()
        began = time.monotonic()
        self._step("loading", "reads the application's endpoints")
        parts = HttpProxyParts(self._config, self._node_address)
        self._stack = parts  # what it holds is released when the replica leaves, also when it does not come up
        await self._announce(parts, began)
