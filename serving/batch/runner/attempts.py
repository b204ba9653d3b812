"""What becomes of batches whose jobs break: how long they rest, and what clients are told of it. Pure.

Attempts are counted in a batch's status, with the claim that begins one, so that also those count whose runner died of
them. Progress makes the one under way the first again; one that ends well, or by nobody's fault, is taken back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from serving._proto import batch_pb2 as pb
from serving.batch.orders.batch import ATTEMPTS_EXHAUSTED, Batch, seconds
from serving.control import Backoff
from serving.errors import MeshError, ResourceExhausted, StoreUnavailable, Unavailable

_REST: Final = Backoff(first_s=2.0, limit_s=600.0, jitter=0.0)  # claims are compared: several may come at once
_HERE: Final = Backoff(first_s=2.0, limit_s=120.0, jitter=0.3)
_RUNNER_DIED: Final = "the runner ended in the middle of it"
_DIED: Final = 2  # runners under a batch, until it is tried alone
Name = tuple[str, str]  # namespace, id


class ModelAway(Unavailable):
    """A model of the batch is deployed, and nobody serves it now."""


def is_broken(error: Exception) -> bool:
    """Whether it counts as an attempt: what the batch waits for is no fault of its job."""
    return not isinstance(error, ModelAway | StoreUnavailable)


def told(error: Exception, epoch: int) -> str:
    """As tenants may know it: no paths and addresses of the mesh. `epoch` leads to the error in the logs."""
    if isinstance(error, ResourceExhausted):  # `DiskFull`, `StorageFull`
        what = "the disk of the file store is full"
    elif isinstance(error, Unavailable):
        what = "what it needs of the mesh did not answer"
    else:
        what = "internal error"
    return f"{what} (epoch {epoch} in the logs of runners)"


def fault(status: pb.BatchStatus, broken: int) -> pb.BatchLineError:
    """Why a batch is given up after `broken` attempts."""
    reason = status.last_failure or _RUNNER_DIED
    times = "an attempt" if broken == 1 else f"{broken} attempts one after the other"
    return pb.BatchLineError(code=ATTEMPTS_EXHAUSTED, message=f"given up after {times} without progress: {reason}")


def rests_until(batch: Batch) -> float:
    """No runner takes it before, in unix seconds; 0: nothing holds it up. Its end, asked for or due, is never late."""
    status = batch.status
    if status is None or not status.attempts:
        return 0.0
    at = seconds(status.updated_at)
    until = at + _REST.delay_s(status.attempts)
    ends = seconds(batch.order.expires_at)
    if batch.cancel is not None:
        ends = min(ends, seconds(batch.cancel.asked_at))
    return min(until, ends) if at < ends else until


def goes_alone(status: pb.BatchStatus | None, max_attempts: int, *, under_way: bool = False) -> bool:
    """Whether its last attempts ended with their runners: it is tried with nothing beside it that it could take along.

    It may as well be a batch that ran beside the one at fault: alone it gets further, and is among others again. The
    first such end may have any reason. `under_way`: the last attempt that is counted is the one that runs.
    """
    if status is None or status.last_failure:
        return False
    return status.attempts - under_way >= max(1, min(_DIED, max_attempts - 1))


class Rests:
    """Which batches a runner leaves alone: those that rest, and for longer those that broke here, so that others try.

    Times are unix seconds.
    """

    def __init__(self) -> None:
        self._broke: dict[Name, int] = {}
        self._left: dict[Name, tuple[float, bool]] = {}  # until when, and whether it was cancelled then

    def broke(self, name: Name, batch: Batch | None, attempts: int, now: float) -> float:
        """After `attempts` that count. How many seconds it is left alone here."""
        self._broke[name] = self._broke.get(name, 0) + 1
        pause_s = _HERE.delay_s(self._broke[name])
        if attempts:
            pause_s += _REST.delay_s(attempts)
        self._leave(name, batch, now + pause_s)
        return pause_s

    def not_here(self, name: Name, batch: Batch, now: float) -> None:
        """It cannot be run by this runner as it is now."""
        self._leave(name, batch, now + _HERE.limit_s)

    def _leave(self, name: Name, batch: Batch | None, until: float) -> None:
        self._left[name] = until, batch is not None and batch.cancel is not None

    def went_well(self, name: Name) -> None:
        self._broke.pop(name, None)

    def rests(self, name: Name, batch: Batch | None, now: float) -> bool:
        if batch is None:
            return False
        until, was_cancelled = self._left.get(name, (0.0, False))
        if batch.cancel is not None and not was_cancelled:
            until = 0.0
        return now < max(until, rests_until(batch))

    def keep(self, known: Callable[[Name], bool]) -> None:
        """Forgets the others."""
        for name in [name for name in self._left if not known(name)]:
            del self._left[name]
            self._broke.pop(name, None)


def reason_of(error: Exception) -> str:
    """For logs."""
    return error.message if isinstance(error, MeshError) else f"{type(error).__name__}: {error}"
