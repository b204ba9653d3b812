"""One gateway: what it is made of, and in which order that starts and ends."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from typing import Any, Final

import aiohttp
from starlette.types import Receive, Scope, Send

from serving.asgi import HttpServer
from serving.errors import FailedPrecondition, InvalidArgument, Unavailable
from serving.gateway.app import GatewayApp
from serving.gateway.balance import Balance
from serving.gateway.catalog import Catalog
from serving.gateway.config import GatewayConfig
from serving.gateway.follower import CatalogFollower, Following, RestFollower
from serving.gateway.forwarding import Forwarder
from serving.gateway.instruments import Instruments
from serving.gateway.keys.parts import GatewayKeys
from serving.gateway.kserve_rest import KserveRest
from serving.gateway.probing import Prober
from serving.gateway.route_follower import RouteFollower
from serving.gateway.routed import RouteForwarder
from serving.gateway.splits import Splits
from serving.gateway.upstreams import Upstreams
from serving.observe import new_registry
from serving.python_deployment.settings import joined
from serving.store.client import EtcdClient
from serving.store.keys import AppKey
from serving.timeouts import cancel_and_wait
from serving.wire import Wire

_LOG: Final = logging.getLogger(__name__)
_WRITE_TIMEOUT_S: Final = 60.0
KSERVE_LIVE: Final = "/v2/health/live"
_CUT_S: Final = 1.0  # for the last words to requests that the drain timeout cuts off
_KEEP_ALIVE: Final = (
    ((socket.SOL_SOCKET, socket.SO_KEEPALIVE), 1),
    ((socket.IPPROTO_TCP, socket.TCP_KEEPIDLE), 5),
    ((socket.IPPROTO_TCP, socket.TCP_KEEPINTVL), 2),
    ((socket.IPPROTO_TCP, socket.TCP_KEEPCNT), 3),
    ((socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT), 10_000),
)


class Gateway:
    """`start`, then `stop`. Belongs to one event loop."""

    def __init__(self, config: GatewayConfig) -> None:
        self._config = config
        self._registry = new_registry()
        self._instruments = Instruments(self._registry)
        self._upstreams = Upstreams(config.prefer_labels, balance=self._balance())
        self._store = EtcdClient(config.etcd)
        self._follower = CatalogFollower(self._store, config.namespaces, self._upstreams.apply)
        self._keys = GatewayKeys(config.etcd, self._store, self._registry) if config.keys_required else None
        self._rest_upstreams = Upstreams(config.prefer_labels)
        self._rest = RestFollower(self._follower, config.namespaces, self._on_rest)
        self._routes = RouteFollower(self._store)
        self._splits = Splits(self._store)
        self._session: aiohttp.ClientSession | None = None
        self._probing: asyncio.Future[Any] | None = None
        self.app: GatewayApp | None = None
        self._server: HttpServer | None = None
        self.address = ""

    def _balance(self) -> Balance:
        balance = Balance(self._config.prefix_index_bytes)
        balance.routed = lambda why: self._instruments.routed.labels(why).inc()
        self._instruments.index_bytes.set_function(lambda: balance.index_bytes)
        return balance

    async def start(self) -> None:
        """Returns when it takes requests. Raises `FailedPrecondition` when it cannot listen."""
        config = self._config
        host, port = _listen(config.listen)
        self._server = HttpServer(_NotYet(self))
        bound = await self._server.start(host, port, config.tls)  # first: a port that is taken ends it at once
        self.address = joined(host, bound)
        connector = aiohttp.TCPConnector(
            limit=0, ttl_dns_cache=30, ssl=_client_context(config) or True, socket_factory=_watched_socket
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),  # a client's cookies are not another's
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=config.connect_timeout_s, sock_read=config.idle_timeout_s
            ),
            skip_auto_headers=("User-Agent", "Accept-Encoding", "Accept"),
        )
        forwarder, routed = self._forwarders(self._session, self._follower, self._upstreams)
        kserve = KserveRest(
            self._follower,
            self._rest,
            self._routes,
            self._splits,
            *self._forwarders(self._session, self._rest, self._rest_upstreams),
            max_body_bytes=config.max_body_bytes,
        )
        self._instruments.ejected.set_function(lambda: self._upstreams.ejected + self._rest_upstreams.ejected)
        app = GatewayApp(
            self._follower,
            self._routes,
            forwarder,
            routed,
            kserve,
            self._instruments,
            self._registry,
            self._upstreams.balance,
            max_body_bytes=config.max_body_bytes,
            max_requests=config.max_requests,
            resume_streams=config.resume_streams,
            created=int(time.time()),
            gate=self._keys.gate if self._keys is not None else None,
        )
        following = [self._follower.start(), self._routes.start()]
        if self._keys is not None:
            following.append(self._keys.start(self.address))
        await asyncio.gather(*following)
        probers = Prober(self._session, self._upstreams), Prober(self._session, self._rest_upstreams, KSERVE_LIVE)
        self._probing = asyncio.gather(*(prober.run() for prober in probers))
        self.app = app
        _LOG.info("gateway ready", extra={"address": self.address, "models": len(self._follower.catalog.offers())})

    def _forwarders(
        self, session: aiohttp.ClientSession, follower: Following, upstreams: Upstreams
    ) -> tuple[Forwarder, RouteForwarder]:
        config, instruments = self._config, self._instruments
        forwarder = Forwarder(
            session, follower, upstreams, instruments, hold_s=config.hold_s, max_attempts=config.max_attempts
        )
        return forwarder, RouteForwarder(forwarder, follower, upstreams, instruments, hold_s=config.hold_s)

    def _on_rest(self, catalog: Catalog) -> None:
        self._rest_upstreams.apply(catalog)
        self._splits.retain({AppKey(offer.key.namespace, offer.key.application) for offer in catalog.offers()})

    async def stop(self) -> None:
        """Says that it leaves, then takes no more, and finishes what runs within the drain timeout; releases all."""
        if self.app is not None:
            self.app.draining = True
            await asyncio.sleep(self._config.leave_s)  # so that who asks /health sends requests elsewhere
        if self._server is not None:
            await self._stop_server(self._server)
        if self._probing is not None:
            await cancel_and_wait(self._probing)
        if self._session is not None:
            await self._session.close()
        if self._keys is not None:
            await self._keys.close()
        await self._follower.close()
        await self._routes.close()
        await self._splits.close()
        await self._store.close()

    async def _stop_server(self, server: HttpServer) -> None:
        limit_s = self._config.drain_timeout_s
        stopping = asyncio.ensure_future(server.stop(limit_s + _CUT_S))
        try:
            await asyncio.wait({stopping}, timeout=limit_s)
            if self.app is not None:
                self.app.cut_off()
            await stopping
        finally:
            await cancel_and_wait(stopping)

    async def wait_ended(self) -> None:
        """Returns when a part of it has ended by itself, which is an error."""
        if self._server is not None and self._probing is not None:
            ended = asyncio.ensure_future(self._server.wait_ended())
            await asyncio.wait({ended, self._probing}, return_when=asyncio.FIRST_COMPLETED)
            ended.cancel()


class _NotYet:
    """Answers while the gateway begins: the port is taken, and the models are not known."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._gateway.app is not None:
            await self._gateway.app(scope, receive, send)
        elif scope["type"] == "http":
            wire = Wire(scope, receive, send, replica="", write_timeout_s=_WRITE_TIMEOUT_S)
            await wire.refuse(Unavailable("this gateway is starting"))


def _watched_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """A peer whose machine has gone is found out within some seconds."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    for option, value in _KEEP_ALIVE:
        made.setsockopt(*option, value)
    return made


def _listen(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit():
        raise InvalidArgument(f"listen: {text!r} is not host:port")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _client_context(config: GatewayConfig) -> ssl.SSLContext | None:
    """What replicas that expect TLS are shown, and checked against."""
    tls = config.endpoint_tls
    if tls is None:
        return None
    try:
        context = ssl.create_default_context(cafile=tls.ca_file or None)
        if tls.cert_file:
            context.load_cert_chain(tls.cert_file, tls.key_file)
    except OSError as error:
        raise FailedPrecondition(
            f"the TLS files of `endpoint_tls` cannot be read: {error.strerror or error}"
        ) from error
    return context
