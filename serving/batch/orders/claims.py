"""How a runner takes a batch, tells how far it is, and ends it: every write under the claim that it holds.

A claim is a leased key. Taking it counts the batch's epoch up, in the same transaction: so whoever comes back with an
older epoch finds that it has lost the batch, whatever its clock and its lease say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from serving._proto import batch_pb2 as pb
from serving.batch.orders.batch import CANCEL, CLAIM, ENDED_STATES, ORDER, STATUS, Batch, is_claimable, read_batches
from serving.errors import Conflict, FailedPrecondition, NotFound
from serving.observe import get_logger
from serving.stamps import stamp
from serving.store import keys
from serving.store.client import EtcdClient
from serving.store.records import encode
from serving.store.types import Compare, Op, OutcomeUnknown

_LOG: Final = get_logger(__name__)
_ATTEMPTS: Final = 3  # of a write whose outcome is not known, each after reading


class ClaimLost(Conflict):
    """Another runner has the batch, it has ended, or its order is gone: stop at once, and write nothing more."""


class ClaimEnded(ClaimLost):
    """The claim went with its lease, and nobody has taken the batch since: with another lease it may be retaken."""


async def read_batch(store: EtcdClient, namespace: str, batch_id: str) -> Batch:
    """As it is now. Raises `NotFound`."""
    found = await store.get_prefix(keys.batch(namespace, batch_id, ""))
    batch = read_batches(found.kvs).get((namespace, batch_id))
    if batch is None:
        raise NotFound(f"there is no batch {batch_id} in {namespace}")
    return batch


async def claim(store: EtcdClient, batch: Batch, *, runner: str, cluster: str, lease: int, now: float) -> Claimed:
    """Takes a batch as it was read; `lease` is the id of the runner's lease, `now` unix seconds.

    The status is there from now on: `VALIDATING` for a batch that nobody had begun, else as it was, with the new epoch
    and one attempt more.
    Raises `FailedPrecondition` for one that may not be claimed now, `Conflict` where it has changed since it was read.
    """
    if not is_claimable(batch, now, runner):
        raise FailedPrecondition(f"batch {batch.id} cannot be claimed: it is claimed, has ended, or ends at once")
    status = pb.BatchStatus(state=pb.VALIDATING)
    if batch.status is not None:
        status.CopyFrom(batch.status)
    status.epoch += 1
    status.attempts += 1
    status.updated_at.CopyFrom(stamp(now))
    mine = pb.BatchClaim(runner=runner, cluster=cluster, epoch=status.epoch)
    conditions = [
        Compare.exists(batch.key(ORDER)),
        Compare.mod_revision(batch.key(CLAIM), batch.claim_revision),
        Compare.mod_revision(batch.key(CANCEL), batch.cancel_revision),
        Compare.mod_revision(batch.key(STATUS), batch.status_revision),
    ]
    steps = [Op.put(batch.key(CLAIM), encode(mine), lease), Op.put(batch.key(STATUS), encode(status))]
    done = await store.txn(conditions, steps)
    if not done.succeeded:
        raise Conflict(f"batch {batch.id} was changed or claimed since it was read: read it again")
    _LOG.info("batch claimed", batch=batch.id, namespace=batch.namespace, epoch=mine.epoch, runner=runner)
    return Claimed(store, batch, mine, status, done.revision)


class Claimed:
    """A batch that this runner works on. Belongs to one event loop; one call at a time.

    `batch` is as it was when it was claimed (whoever works follows the key of its cancel), `status` as last written.
    """

    def __init__(
        self, store: EtcdClient, batch: Batch, mine: pb.BatchClaim, status: pb.BatchStatus, status_revision: int
    ) -> None:
        """Made by `claim`."""
        self._store = store
        self._mine = mine
        self._status_revision = status_revision
        self.batch = batch
        self.status = status

    @property
    def epoch(self) -> int:
        return self._mine.epoch

    async def write(self, status: pb.BatchStatus, files: Sequence[pb.FileRecord] = ()) -> None:
        """Writes the status, with the records of files that it names, in one transaction that compares the claim.

        With a state of `ENDED_STATES` the claim is given back in the same step: that was the last write. Epoch,
        `updated_at` and, with such a state, `ended_at` are set here. Raises `ClaimLost`, of it `ClaimEnded` where the
        lease was over when etcd came to it; `StoreUnavailable` while etcd does not answer: write the same again when it
        is back. Where it was written the first time, that one stands.
        """
        written = pb.BatchStatus()
        written.CopyFrom(status)
        written.epoch = self.epoch
        written.updated_at.GetCurrentTime()
        if written.state in ENDED_STATES:
            written.ended_at.CopyFrom(written.updated_at)
        for _ in range(_ATTEMPTS):
            if await self._sent(written, files):
                self.status = written
                return
        raise self._lost("others write its status")

    async def _sent(self, written: pb.BatchStatus, files: Sequence[pb.FileRecord]) -> bool:
        """False: not written, as our picture of the keys was old; it is new now."""
        claim_key, status_key = self.batch.key(CLAIM), self.batch.key(STATUS)
        conditions = [
            Compare.value(claim_key, encode(self._mine)),
            Compare.mod_revision(status_key, self._status_revision),
        ]
        steps = [Op.put(status_key, encode(written))]
        steps += [Op.put(keys.file(one.namespace, one.id), encode(one)) for one in files]
        if written.state in ENDED_STATES:
            steps.append(Op.delete(claim_key))
        try:
            done = await self._store.txn(conditions, steps)
        except OutcomeUnknown as error:
            if not error.store_answers:
                raise
        else:
            if done.succeeded:
                self._status_revision = done.revision
                return True
        now = await self._read()
        if now.status is not None and _is_written(now.status, written):
            written.CopyFrom(now.status)
            return True
        if now.claim is None:
            raise ClaimEnded(f"the claim of batch {self.batch.id} has ended with its lease")
        if now.claim != self._mine:
            raise self._lost("somebody else has taken it")
        return False

    async def retake(self, lease: int) -> None:
        """After the lease of the claim was lost: takes it again, with the same epoch, where nobody else has had it.

        Raises `ClaimLost`; `StoreUnavailable` while etcd does not answer.
        """
        for _ in range(_ATTEMPTS):
            now = await self._read()
            if now.claim not in (None, self._mine):
                raise self._lost("somebody else has taken it")
            conditions = [
                Compare.exists(self.batch.key(ORDER)),
                Compare.mod_revision(self.batch.key(CLAIM), now.claim_revision),
                Compare.mod_revision(self.batch.key(STATUS), now.status_revision),
            ]
            try:
                done = await self._store.txn(conditions, [Op.put(self.batch.key(CLAIM), encode(self._mine), lease)])
            except OutcomeUnknown as error:
                if not error.store_answers:
                    raise
                continue
            if done.succeeded:
                return
        raise self._lost("others write its keys")

    async def release(self) -> None:
        """Gives the claim back, the batch as it stands: for a runner that leaves. Nothing to do where it is lost."""
        try:
            now = await self._read()
            if now.claim == self._mine:
                await self._store.delete_if(self.batch.key(CLAIM), mod_revision=now.claim_revision)
        except Conflict as error:
            _LOG.info("nothing to give back", batch=self.batch.id, why=error.message)

    async def _read(self) -> Batch:
        """As it is now. Raises `ClaimLost` where it cannot be ours any more."""
        try:
            now = await read_batch(self._store, self.batch.namespace, self.batch.id)
        except NotFound as error:
            raise self._lost("it is not there any more") from error
        if now.status is None or now.status.epoch != self.epoch:
            raise self._lost("somebody else has taken it")
        self._status_revision = now.status_revision
        return now

    def _lost(self, why: str) -> ClaimLost:
        return ClaimLost(f"the claim of batch {self.batch.id} is lost: {why}")


def _is_written(there: pb.BatchStatus, written: pb.BatchStatus) -> bool:
    """Also by an earlier call whose answer was lost, at another time, if it was the last write: the claim is gone."""
    if there.state not in ENDED_STATES:
        return there == written
    earlier = pb.BatchStatus()
    earlier.CopyFrom(written)
    earlier.updated_at.CopyFrom(there.updated_at)
    earlier.ended_at.CopyFrom(there.ended_at)
    return there == earlier
