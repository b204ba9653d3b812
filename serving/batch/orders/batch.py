"""A batch as its five records say it: order, cancel, claim, status, application; and what may happen next. Pure."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from serving._proto import batch_pb2 as pb
from serving.errors import DataLoss
from serving.store import keys
from serving.store.records import M, decode
from serving.store.types import KeyValue

ENDED_STATES: Final = (pb.COMPLETED, pb.FAILED_VALIDATION, pb.EXPIRED_WINDOW, pb.CANCELLED_BATCH)
SKEW_S: Final = 5.0  # between clocks: nobody begins a batch this near to its window's end, as others may see it expired
ABANDONED_S: Final = 24 * 3600.0  # a batch that was begun and is nobody's waits so long for a runner that publishes
ORDER: Final = "order"
CANCEL: Final = "cancel"
CLAIM: Final = "claim"
STATUS: Final = "status"
APPLICATION: Final = "application"
MODE_SHARED: Final = "shared"
MODE_OWN: Final = "own"
ATTEMPTS_EXHAUSTED: Final = "attempts_exhausted"  # code of the error of a batch that was given up: its input is good
_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Batch:
    """`*_revision`: when that record was last written, 0 where there is none. Records are not to be changed.

    `application` is of mode `own`: what its keeper says.
    """

    order: pb.BatchOrder
    status: pb.BatchStatus | None = None
    cancel: pb.BatchCancel | None = None
    claim: pb.BatchClaim | None = None
    status_revision: int = 0
    cancel_revision: int = 0
    claim_revision: int = 0
    application: pb.BatchApplication | None = None
    application_revision: int = 0
    order_revision: int = 0

    @property
    def id(self) -> str:
        return self.order.id

    @property
    def namespace(self) -> str:
        return self.order.namespace

    @property
    def name(self) -> tuple[str, str]:
        """Namespace and id."""
        return self.order.namespace, self.order.id

    @property
    def own(self) -> bool:
        """A runner of its own works on it, and no other."""
        return self.order.mode == MODE_OWN

    def key(self, part: str) -> str:
        return keys.batch(self.order.namespace, self.order.id, part)


def seconds(moment: Timestamp) -> float:
    """Unix seconds."""
    return float(moment.ToNanoseconds() / 1e9)


def ends_at(batch: Batch, now: float) -> float | None:
    """Since when it has ended, in unix seconds; None while it has not. Nothing changes a batch that has ended.

    A runner's word is the last one. Without it a batch that nobody has begun ends by its cancel or its window (what is
    first); one that was begun and is nobody's ends `ABANDONED_S` after them.
    """
    return _ends_at(batch, now, claimed=batch.claim is not None)


def _ends_at(batch: Batch, now: float, *, claimed: bool) -> float | None:
    status = batch.status
    if status is not None and status.state in ENDED_STATES:
        return seconds(status.ended_at)
    if claimed:
        return None
    waits_s = 0.0 if status is None else ABANDONED_S
    end = seconds(batch.order.expires_at) + waits_s
    if batch.cancel is not None:
        end = min(end, seconds(batch.cancel.asked_at) + waits_s)
    return end if now >= end else None


def is_claimable(batch: Batch, now: float, runner: str = "") -> bool:
    """Whether a runner may begin it, or go on with it (also to publish what is done of one that is cancelled).

    What `runner` itself had claimed it may claim again: it was started again, or has lost the answer.
    """
    if batch.claim is not None and batch.claim.runner != runner:
        return False
    return _ends_at(batch, now + SKEW_S, claimed=False) is None


def may_ask(order: pb.BatchOrder, *, namespace: str, application: str, model: str) -> bool:
    """Whether the key that asked for the batch may ask that model, as gateways decide it for single requests."""
    if order.namespaces and namespace not in order.namespaces:
        return False
    names = (model, f"{application}/{model}", f"{namespace}/{application}/{model}")
    return not order.models or any(fnmatchcase(name, pattern) for pattern in order.models for name in names)


def read_batches(found: Iterable[KeyValue]) -> dict[tuple[str, str], Batch]:
    """By namespace and id. Parts without an order, and what is damaged, are left out; the latter is logged.

    A status that is damaged takes its batch with it: what was told of it cannot be read back as "not begun".
    """
    parts: dict[tuple[str, str], dict[str, KeyValue]] = {}
    for kv in found:
        parsed = keys.parse_batch(kv.key)
        if parsed is not None:
            parts.setdefault(parsed[:2], {})[parsed[2]] = kv
    made = {name: _batch(of_one) for name, of_one in parts.items() if ORDER in of_one}
    return {name: one for name, one in made.items() if one is not None}


def _batch(parts: dict[str, KeyValue]) -> Batch | None:
    kv = parts[ORDER]
    try:
        batch = Batch(
            decode(pb.BatchOrder, kv.value),
            _record(pb.BatchStatus, parts.get(STATUS)),
            _record(pb.BatchCancel, parts.get(CANCEL)),
            _record(pb.BatchClaim, parts.get(CLAIM)),
            status_revision=_revision(parts.get(STATUS)),
            cancel_revision=_revision(parts.get(CANCEL)),
            claim_revision=_revision(parts.get(CLAIM)),
            application=_record(pb.BatchApplication, parts.get(APPLICATION)),
            application_revision=_revision(parts.get(APPLICATION)),
            order_revision=kv.mod_revision,
        )
        if kv.key != batch.key(ORDER):
            raise DataLoss(f"it says that it is {batch.namespace[:80]!r}, {batch.id[:80]!r}")
    except DataLoss as error:
        _LOG.warning("batch ignored", extra={"store_key": kv.key, "error": error.message})
        return None
    return batch


def _record(kind: type[M], kv: KeyValue | None) -> M | None:
    return None if kv is None else decode(kind, kv.value)


def _revision(kv: KeyValue | None) -> int:
    return 0 if kv is None else kv.mod_revision
