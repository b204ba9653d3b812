"""Routes as they stand in the store: which of two versions counts, and those that can be read."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final

from serving._proto import records_pb2 as pb
from serving.errors import DataLoss
from serving.store import keys
from serving.store.records import decode
from serving.store.types import KeyValue

# A replaced store does not end how names are shared among models: keepers write that again, whenever they are back.
ROUTE_GRACE_S: Final = 7 * 24 * 3600.0
_LOG: Final = logging.getLogger(__name__)


def newer_route(remembered: KeyValue, found: KeyValue) -> KeyValue:
    """Of two versions of one route, the remembered one if it is newer: for a store that came back older."""
    try:
        old, new = decode(pb.RouteRecord, remembered.value), decode(pb.RouteRecord, found.value)
    except DataLoss:
        return found
    newer = (old.changed.ToNanoseconds(), old.version) > (new.changed.ToNanoseconds(), new.version)
    return remembered if newer else found


def readable_routes(kvs: Iterable[KeyValue]) -> dict[str, pb.RouteRecord]:
    """By name; one that is damaged, or is not what its key says, is left out and logged."""
    found: dict[str, pb.RouteRecord] = {}
    for kv in kvs:
        try:
            record = decode(pb.RouteRecord, kv.value)
            if kv.key != keys.route(record.name):
                raise DataLoss(f"it says that it is {record.name[:128]!r}")
        except DataLoss as error:
            _LOG.warning("route ignored", extra={"store_key": kv.key, "error": error.message})
            continue
        found[record.name] = record
    return found
