"""One HTTP proxy of an application: the life of its process.

States as those of a Python replica; "loading" lasts until it knows what etcd holds, so that a rollout never replaces a
proxy that knows where to send requests by one that does not.
"""

from __future__ import annotations

from serving.http_proxy.parts import HttpProxyParts
from serving.python_deployment.replica import Parts, Replica


class HttpProxyReplica(Replica):
    """All methods may be called from any thread and answer at once, but for `stop`. Nothing raises."""

    async def _load(self) -> Parts:
        self._step("loading", "reads the application's endpoints")
        return self._hold(HttpProxyParts(self._config, self._node_address))
