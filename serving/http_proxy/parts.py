"""What an HTTP proxy is made of: a gateway's parts for one application, and what all replicas with HTTP have."""

from __future__ import annotations

from typing import Final

from serving._proto import records_pb2 as pb
from serving.errors import Code
from serving.gateway.parts import GatewayParts, raise_descriptor_limit
from serving.http_proxy import settings
from serving.openai_http.parts import HttpParts
from serving.python_deployment.instruments import Statistics

_COUNTED: Final = ("/v1/", "/v2/")
_LAST_WORDS_S: Final = 1.0  # to requests that the drain timeout cuts off
_CODES: Final = {429: Code.RESOURCE_EXHAUSTED, 499: Code.CANCELLED, 503: Code.UNAVAILABLE, 504: Code.DEADLINE_EXCEEDED}


class HttpProxyParts(HttpParts):
    """See `HttpParts`."""

    def __init__(self, config: pb.ReplicaConfig, node_address: str) -> None:
        super().__init__(config, node_address)
        self._calls = Statistics()
        self._gateway = GatewayParts(
            settings.gateway_config(config), self._registry, app=settings.app_key(config), ended=self._ended
        )

    def _ended(self, status: int, seconds: float) -> None:
        self._calls.note(code_of(status), seconds)

    def _statistics(self) -> Statistics:
        return self._calls

    def describe(self, report: pb.ReplicaReport) -> None:
        super().describe(report)
        if report.HasField("load"):
            report.load.waiting = self._gateway.held

    def _endpoint(self, report: pb.ReplicaReport, node: str) -> pb.Endpoint:
        return settings.endpoint(self._config, report, node)

    def _failure(self) -> str:
        return "a part of the proxy has ended by itself; see its log" if self._gateway.broken else ""

    async def listen(self) -> pb.ReplicaReport:
        """Serves; the part of the report that says where. Returns when it knows what etcd holds.

        Raises `FailedPrecondition`.
        """
        raise_descriptor_limit()
        report = await self._serve(self._gateway, counted=_COUNTED)
        await self._gateway.open(report.address)
        await self._gateway.wait_synced()
        return report

    def refuse(self) -> None:
        super().refuse()
        self._gateway.refuse()

    async def _release(self) -> None:
        self._gateway.cut_off()
        await self.wait_idle(_LAST_WORDS_S)
        await self._gateway.close()


def code_of(status: int) -> Code:
    """Of an HTTP answer, for the counters that all replicas have."""
    if status < 400:
        return Code.OK
    return _CODES.get(status, Code.INVALID_ARGUMENT if status < 500 else Code.INTERNAL)
