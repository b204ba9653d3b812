"""Which endpoints an application has, judged from its records. Pure."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from serving._proto import records_pb2 as pb
from serving.errors import DataLoss
from serving.store import keys
from serving.store.keys import AppKey
from serving.store.records import decode
from serving.store.types import KeyValue
from serving.types import ENDPOINT_DRAINING, ENDPOINT_READY

_LOG: Final = logging.getLogger(__name__)
_Group: TypeAlias = tuple[str, str, str, str]


@dataclass(frozen=True, slots=True)
class EndpointView:
    """The endpoints of an application as far as they are known, at one moment.

    `endpoints` holds ready and draining ones (`state`), in the order of their keys. `stale`: etcd does not answer, for
    `stale_for_s` by now; what is shown is the last view. `carried`: ids that a replaced store does not hold yet.
    `splits` say how requests are shared among the endpoints.
    """

    endpoints: tuple[pb.Endpoint, ...] = ()
    revision: int = 0
    stale: bool = True
    stale_for_s: float = 0.0
    carried: frozenset[str] = frozenset()
    splits: tuple[pb.TrafficSplit, ...] = ()

    @property
    def ready(self) -> tuple[pb.Endpoint, ...]:
        """Those that take new work."""
        return tuple(endpoint for endpoint in self.endpoints if endpoint.state == ENDPOINT_READY)


class EndpointDecoder:
    """Decodes each version of a record once, and says once what is wrong with it."""

    def __init__(self, app: AppKey | None) -> None:
        """None: of any application."""
        self._app = app
        self._decoded: dict[str, tuple[KeyValue, pb.Endpoint | None]] = {}

    def decode(self, entries: Mapping[str, KeyValue]) -> dict[str, pb.Endpoint]:
        """The usable records by key; the others are left out."""
        self._decoded = {key: self._one(kv) for key, kv in entries.items()}
        return {key: endpoint for key, (_, endpoint) in self._decoded.items() if endpoint is not None}

    def _one(self, kv: KeyValue) -> tuple[KeyValue, pb.Endpoint | None]:
        known = self._decoded.get(kv.key)
        if known is not None and known[0].value == kv.value:
            return kv, known[1]
        try:
            endpoint = decode(pb.Endpoint, kv.value)
            app = self._app or AppKey(endpoint.namespace, endpoint.application)
            check_endpoint(endpoint, app, kv.key)
        except DataLoss as error:
            _LOG.warning("endpoint record ignored", extra={"store_key": kv.key, "error": error.message})
            return kv, None
        return kv, endpoint


def check_endpoint(endpoint: pb.Endpoint, app: AppKey, key: str) -> None:
    """Raises `DataLoss` when a record cannot be what its key says, or cannot be called."""
    host, colon, port = endpoint.address.rpartition(":")
    if not (host and colon and port.isdigit() and 0 < int(port) < 65_536):
        raise DataLoss(f"{key}: its address {endpoint.address!r} is not host:port")
    if endpoint.state not in (ENDPOINT_READY, ENDPOINT_DRAINING):
        raise DataLoss(f"{key}: its state {endpoint.state!r} is neither {ENDPOINT_READY!r} nor {ENDPOINT_DRAINING!r}")
    expected = keys.endpoint(app, endpoint.role, endpoint.deployment, endpoint.id)
    if (endpoint.namespace, endpoint.application) != (app.namespace, app.name) or key != expected:
        raise DataLoss(f"{key}: it says that it belongs to {expected}")


def current(endpoints: Iterable[pb.Endpoint]) -> list[pb.Endpoint]:
    """Without those of an older generation than a ready one of the same application, role and deployment."""
    listed = list(endpoints)
    newest: dict[_Group, int] = {}
    for endpoint in listed:
        if endpoint.state == ENDPOINT_READY:
            group = _group(endpoint)
            newest[group] = max(newest.get(group, 0), endpoint.generation)
    return [item for item in listed if item.generation >= newest.get(_group(item), 0)]


def _group(endpoint: pb.Endpoint) -> _Group:
    return (endpoint.namespace, endpoint.application, endpoint.role, endpoint.deployment)


def prefer_newer(remembered: KeyValue, found: KeyValue) -> KeyValue:
    """Of two records of one endpoint, the remembered one if it is of a newer generation or revision.

    For a store that came back older: its record is then one that the endpoint had replaced.
    """
    try:
        old, new = decode(pb.Endpoint, remembered.value), decode(pb.Endpoint, found.value)
    except DataLoss:
        return found
    return remembered if (old.generation, old.revision) > (new.generation, new.revision) else found


def newer_traffic(remembered: KeyValue, found: KeyValue) -> KeyValue:
    """As `prefer_newer`, of two versions of an application's `TrafficRecord`."""
    try:
        old, new = decode(pb.TrafficRecord, remembered.value), decode(pb.TrafficRecord, found.value)
    except DataLoss:
        return found
    return remembered if (old.generation, old.version) > (new.generation, new.version) else found
