"""Asks replicas that were ejected whether they are back."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

import aiohttp

from serving.gateway.upstreams import Upstream, Upstreams

_LOG: Final = logging.getLogger(__name__)
_TIMEOUT: Final = aiohttp.ClientTimeout(total=2.0)
_IDLE_S: Final = 0.25  # how late an ejection may be noticed


class Prober:
    """Runs beside the requests until it is cancelled."""

    def __init__(self, session: aiohttp.ClientSession, upstreams: Upstreams, path: str = "/health") -> None:
        """`path` is answered with 200 by a replica that is well."""
        self._path = path
        self._session = session
        self._upstreams = upstreams

    async def run(self) -> None:
        while True:
            wait_s = self._upstreams.next_probe_in_s()
            await asyncio.sleep(_IDLE_S if wait_s is None else max(min(wait_s, _IDLE_S), 0.01))
            due = list(self._upstreams.due_probes())
            if due:
                await asyncio.gather(*(self._probe(upstream) for upstream in due))

    async def _probe(self, upstream: Upstream) -> None:
        try:
            async with self._session.get(f"{upstream.url}{self._path}", timeout=_TIMEOUT) as response:
                ok = response.status == 200
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:
            _LOG.debug("probe failed", extra={"replica": str(upstream), "error": str(error)})
            ok = False
        self._upstreams.probed(upstream, ok)
        _LOG.info("probed", extra={"replica": str(upstream), "back": ok})
