"""What gateways and HTTP proxies are made of, without the server: whom they follow, and how requests are answered."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import ssl
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import aiohttp
from prometheus_client import CollectorRegistry
from starlette.types import Receive, Scope, Send

from serving.errors import FailedPrecondition, Unavailable
from serving.gateway.app import GatewayApp
from serving.gateway.balance import WHYS, Balance
from serving.gateway.batch.parts import BatchParts
from serving.gateway.batch.service import FilesAndBatches
from serving.gateway.cache_client import CacheClient
from serving.gateway.caching import Caching
from serving.gateway.catalog import Catalog
from serving.gateway.config import GatewayConfig
from serving.gateway.follower import CatalogFollower, Following, RestFollower
from serving.gateway.forwarding import Forwarder
from serving.gateway.instruments import Instruments
from serving.gateway.keys.parts import GatewayKeys
from serving.gateway.kserve_rest import KserveRest
from serving.gateway.later import LaterRequests
from serving.gateway.probing import Prober
from serving.gateway.queued.background import Background
from serving.gateway.queued.dispatch import BrokerForwarder
from serving.gateway.queued.journals import Journals
from serving.gateway.queued.service import QueuedRequests
from serving.gateway.queued.submitting import Submitter
from serving.gateway.queued.targets import QueueTargets
from serving.gateway.route_follower import NoRoutes, RouteFollower
from serving.gateway.routed import RouteForwarder
from serving.gateway.splits import Splits
from serving.gateway.upstreams import Upstreams
from serving.http_client import HttpClient
from serving.sdk.brokers import Brokers
from serving.sockets import watch_peer
from serving.store.client import EtcdClient
from serving.store.keys import AppKey
from serving.timeouts import cancel_and_wait
from serving.wire import Wire

_LOG: Final = logging.getLogger(__name__)
_WRITE_TIMEOUT_S: Final = 60.0
_KSERVE_LIVE: Final = "/v2/health/live"
_TIDY_S: Final = 60.0


class GatewayParts:
    """An ASGI application: `open`, then `close`; in between it answers. Belongs to one event loop.

    Without `app` it is a gateway, for all applications and routes; with it a proxy of that application, whose clients
    know nothing else.
    """

    def __init__(
        self,
        config: GatewayConfig,
        registry: CollectorRegistry,
        *,
        app: AppKey | None = None,
        ended: Callable[[int, float], None] = lambda _status, _seconds: None,
    ) -> None:
        """`ended` is told of each request for a model that has ended: the answer's status, and seconds."""
        self._config = config
        self._registry = registry
        self._called = "gateway" if app is None else "proxy"
        self._own = frozenset({app} if app is not None else ())
        self._ended = ended
        self._instruments = Instruments(registry)
        self._upstreams = Upstreams(config.prefer_labels, balance=self._balance())
        self._store = EtcdClient(config.etcd)
        self._follower = CatalogFollower(self._store, config.namespaces, self._on_catalog, app=app)
        self._keys = GatewayKeys(config.etcd, self._store, registry) if config.keys_required else None
        self._rest_upstreams = Upstreams(config.prefer_labels)
        self._rest = RestFollower(self._follower, config.namespaces, self._on_rest)
        self._routes = RouteFollower(self._store) if app is None else NoRoutes()
        self._splits = Splits(self._store, self._on_splits)
        self._queue_targets = QueueTargets(self._follower, config.namespaces, self._own)
        self._brokers = Brokers(self._store, config.endpoint_tls)
        self._journals = Journals(self._brokers, self._queue_targets)
        self._through = BrokerForwarder(
            self._journals, self._queue_targets, self._splits, self._instruments, config.max_body_bytes
        )
        self._batches = self._new_batches()
        self._session: aiohttp.ClientSession | None = None
        self._client: HttpClient | None = None  # for what clients ask
        self._caching: Caching | None = None
        self._all_forwarders: list[Forwarder] = []
        self._running: asyncio.Future[Any] | None = None
        self._app: GatewayApp | None = None

    def _balance(self) -> Balance:
        balance = Balance(self._config.prefix_index_bytes)
        counters = {why: self._instruments.routed.labels(why) for why in WHYS}
        balance.routed = lambda why: counters[why].inc()
        self._instruments.index_bytes.set_function(lambda: balance.index_bytes)
        return balance

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._app is not None:
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            wire = Wire(scope, receive, send, replica="", write_timeout_s=_WRITE_TIMEOUT_S)
            await wire.refuse(Unavailable(f"this {self._called} is starting"))

    # ------------------------------------------------------------------------------------------------ coming up

    async def open(self, address: str) -> None:
        """Returns when it takes requests; without etcd after some seconds, while following goes on.

        `address` is where others find it. Raises `FailedPrecondition` for files that cannot be read, `Unavailable` and
        `StorageFull` for a file store that cannot be used.
        """
        context = _client_context(self._config)
        if self._batches is not None:
            await self._batches.start()
        session = self._session = self._new_session(context)
        self._client = self._new_client(context)
        client = CacheClient(session, timeout_s=self._config.cache_timeout_s)
        self._caching = Caching(client, self._instruments, follow_s=self._config.cache_follow_s)
        self._instruments.ejected.set_function(lambda: self._upstreams.ejected + self._rest_upstreams.ejected)
        app = self._new_app(self._client, self._caching)
        self._splits.follow(self._own)
        following = [self._follower.start(), self._routes.start()]
        if self._keys is not None:
            following.append(self._keys.start(address))
        await asyncio.gather(*following)
        probers = Prober(session, self._upstreams), Prober(session, self._rest_upstreams, _KSERVE_LIVE)
        running = [prober.run() for prober in probers] + [self._tidy()]
        if self._batches is not None:
            running.append(self._batches.run())
        self._running = asyncio.gather(*running)
        self._app = app
        models = len(self._follower.catalog.offers())
        _LOG.info("takes requests", extra={"called": self._called, "address": address, "models": models})

    async def wait_synced(self) -> None:
        """Returns when everything that it follows was read once, however long etcd is away."""
        await self._follower.wait_synced()
        for app in self._own:
            await self._splits.wait_synced(app)
        if self._keys is not None:
            await self._keys.wait_synced()

    def _new_client(self, context: ssl.SSLContext | None) -> HttpClient:
        config = self._config
        return HttpClient(connect_s=config.connect_timeout_s, silence_s=config.idle_timeout_s, tls=context)

    def _new_session(self, context: ssl.SSLContext | None) -> aiohttp.ClientSession:
        """For what it asks by itself: caches, and replicas whether they are well."""
        config = self._config
        connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=30, ssl=context or True, socket_factory=_watched_socket)
        return aiohttp.ClientSession(
            connector=connector,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),  # a client's cookies are not another's
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=config.connect_timeout_s, sock_read=config.idle_timeout_s
            ),
            skip_auto_headers=("User-Agent", "Accept-Encoding", "Accept"),
        )

    def _new_app(self, client: HttpClient, caching: Caching) -> GatewayApp:
        config = self._config
        kserve = KserveRest(
            self._follower,
            self._rest,
            self._routes,
            self._splits,
            *self._forwarders(client, self._rest, self._rest_upstreams),
            self._queue_targets,
            max_body_bytes=config.max_body_bytes,
            called=self._called,
        )
        return GatewayApp(
            self._follower,
            self._routes,
            *self._forwarders(client, self._follower, self._upstreams),
            kserve,
            caching,
            LaterRequests(self._new_queued(), FilesAndBatches(self._batches, called=self._called)),
            self._instruments,
            self._registry,
            self._upstreams.balance,
            max_body_bytes=config.max_body_bytes,
            max_requests=config.max_requests,
            resume_streams=config.resume_streams,
            created=int(time.time()),
            called=self._called,
            ended=self._ended,
            gate=self._keys.gate if self._keys is not None else None,
        )

    def _new_queued(self) -> QueuedRequests:
        targets, journals = self._queue_targets, self._journals
        submitter = Submitter(self._follower, self._routes, self._splits, targets, journals, called=self._called)
        background = Background(submitter, journals)
        return QueuedRequests(submitter, journals, background, max_body_bytes=self._config.max_body_bytes)

    def _new_batches(self) -> BatchParts | None:
        """None: there is no file store. Raises `InvalidArgument`, `NotSupported` for a URL that cannot be one."""
        config = self._config
        if not config.batch_store:
            return None
        return BatchParts(config.batch_store, config.batch_limits, self._store, self._registry)

    def _forwarders(
        self, client: HttpClient, follower: Following, upstreams: Upstreams
    ) -> tuple[Forwarder, RouteForwarder]:
        config, instruments = self._config, self._instruments
        forwarder = Forwarder(
            client,
            follower,
            upstreams,
            self._splits,
            instruments,
            hold_s=config.hold_s,
            max_attempts=config.max_attempts,
            through=self._through,
        )
        self._all_forwarders.append(forwarder)
        pulled = partial(self._queue_targets.offers_pulled, openai=follower is self._follower)
        routed = RouteForwarder(forwarder, follower, upstreams, instruments, pulled=pulled, hold_s=config.hold_s)
        return forwarder, routed

    # ------------------------------------------------------------------------------------------------ while it runs

    def _on_catalog(self, catalog: Catalog) -> None:
        self._upstreams.apply(catalog)
        apps = self._own | _apps(catalog) | _apps(self._rest.catalog)
        self._splits.retain(apps)
        self._splits.follow(apps)
        if self._caching is not None:
            self._caching.known(catalog)

    def _on_rest(self, catalog: Catalog) -> None:
        """Before the other one."""
        self._rest_upstreams.apply(catalog)

    def _on_splits(self) -> None:
        self._upstreams.changed()
        self._rest_upstreams.changed()

    async def _tidy(self) -> None:
        while True:
            await asyncio.sleep(_TIDY_S)
            catalogs = self._follower.catalog, self._rest.catalog
            self._instruments.keep({str(offer.key) for catalog in catalogs for offer in catalog.offers()})

    @property
    def held(self) -> int:
        """Requests that wait because no replica takes them. From any thread."""
        return sum(forwarder.held for forwarder in self._all_forwarders)

    @property
    def broken(self) -> bool:
        """True when a part of it has ended by itself."""
        return self._running is not None and self._running.done()

    async def wait_broken(self) -> None:
        """After `open`. Returns when it is `broken`."""
        if self._running is not None:
            await asyncio.wait({self._running})

    # ------------------------------------------------------------------------------------------------ going down

    def leave(self) -> None:
        """From now on `/health` says that it leaves."""
        if self._app is not None:
            self._app.draining = True

    def refuse(self) -> None:
        """Takes no requests any more."""
        self.leave()
        if self._app is not None:
            self._app.refusing = True

    def cut_off(self) -> None:
        """Ends what runs: streams with an error event."""
        if self._app is not None:
            self._app.cut_off()

    async def close(self) -> None:
        """After the last request. What it keeps for others is written, and everything released."""
        if self._running is not None:
            await cancel_and_wait(self._running)
        if self._caching is not None:
            await self._caching.close()
        if self._client is not None:
            await self._client.close()
        if self._session is not None:
            await self._session.close()
        if self._keys is not None:
            await self._keys.close()
        await self._brokers.close()
        await self._follower.close()
        await self._routes.close()
        await self._splits.close()
        await self._store.close()


def _apps(catalog: Catalog) -> set[AppKey]:
    return {AppKey(offer.key.namespace, offer.key.application) for offer in catalog.offers()}


def raise_descriptor_limit() -> None:
    """To what the process may have: each stream takes two descriptors, and shells often begin with 1,024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _watched_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    watch_peer(made)
    return made


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
