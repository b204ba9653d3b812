"""A runner whose writes arrive at a real etcd, and whose answers are lost: what stands is taken for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack

import pytest

from serving._proto import batch_pb2 as pb
from serving.batch.orders.batch import ENDED_STATES, STATUS
from serving.local.etcd import EtcdCluster
from serving.store import EtcdClient, keys
from serving.store.records import decode
from serving.store.types import Compare, Op, OutcomeUnknown, TxnResult
from tests.support.runner_taking import Script, Taking

pytestmark = pytest.mark.timeout(600)


class Forgetful(EtcdClient):
    """Transactions are made, and the answers to the first ones that write one of `states` are lost."""

    states: Sequence[pb.BatchState] = ()
    losses = 0
    lost = 0
    store_answers = True

    async def txn(self, compares: Sequence[Compare], then: Sequence[Op], otherwise: Sequence[Op] = ()) -> TxnResult:
        done = await super().txn(compares, then, otherwise)
        if self.lost < self.losses and _states_of(then) & set(self.states):
            self.lost += 1
            raise OutcomeUnknown("the answer was lost", store_answers=self.store_answers)
        return done


def _states_of(steps: Sequence[Op]) -> set[pb.BatchState]:
    written = [step for step in steps if step.value and (keys.parse_batch(step.key) or ("", "", ""))[2] == STATUS]
    return {decode(pb.BatchStatus, step.value).state for step in written}


@pytest.fixture
async def forgetful(etcd: EtcdCluster) -> AsyncIterator[Forgetful]:
    client = Forgetful(etcd.config())
    yield client
    await client.close()


@pytest.mark.parametrize("store_answers", [True, False])
@pytest.mark.parametrize("states", [(pb.IN_PROGRESS,), (pb.FINALIZING,), tuple(ENDED_STATES)])
async def test_a_write_whose_answer_is_lost(
    forgetful: Forgetful, states: tuple[pb.BatchState, ...], store_answers: bool
) -> None:
    forgetful.states, forgetful.losses, forgetful.store_answers = states, 2, store_answers
    async with AsyncExitStack() as stack:
        taking = Taking(forgetful, stack)
        script = Script(has_output=True)
        script.go.set()
        batch = await taking.order()
        runner = await taking.runner("r1", script)
        ended = await taking.becomes(batch, "completed")
        await runner.wait_idle()
        assert forgetful.lost >= 1, "an answer was lost"
        assert ended.status is not None
        assert (ended.status.completed, ended.status.epoch, ended.claim) == (10, 1, None)
        assert script.published == [(batch.id, None)]
        assert script.unpublished == [], "its output stays"
        assert await forgetful.get(keys.file(batch.namespace, ended.status.output_file)) is not None


async def test_a_claim_whose_answer_is_lost_is_taken_again(forgetful: Forgetful) -> None:
    forgetful.states, forgetful.losses = (pb.VALIDATING,), 1
    async with AsyncExitStack() as stack:
        taking = Taking(forgetful, stack)
        script = Script()
        script.go.set()
        batch = await taking.order()
        await taking.runner("r1", script)
        ended = await taking.becomes(batch, "completed")
        assert forgetful.lost == 1
        assert ended.status is not None
        assert (ended.status.epoch, len(script.began), ended.status.attempts) == (2, 1, 0)
