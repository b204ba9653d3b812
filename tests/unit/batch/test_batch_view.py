"""What a batch's records come to, for any of them at any time."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving._proto import batch_pb2 as pb
from serving.batch.orders.batch import (
    ABANDONED_S,
    ENDED_STATES,
    SKEW_S,
    Batch,
    ends_at,
    is_claimable,
    may_ask,
    read_batches,
)
from serving.batch.orders.view import view, window_text, word_of
from serving.stamps import stamp
from serving.store import keys
from serving.store.records import encode
from serving.store.types import KeyValue
from tests.support.batches import T0, WINDOW_S, order_of

CLAIM = pb.BatchClaim(runner="r", cluster="c", epoch=1)
MOMENTS = st.floats(T0, T0 + 4 * 24 * 3600)
STATES = st.sampled_from([pb.VALIDATING, pb.IN_PROGRESS, pb.FINALIZING, *ENDED_STATES])
ENDED_WORDS = {"completed", "failed", "expired", "cancelled"}


def cancelled_at(moment: float) -> pb.BatchCancel:
    return pb.BatchCancel(asked_at=stamp(moment))


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    status = cancel = claim = None
    if draw(st.booleans()):
        status = pb.BatchStatus(state=draw(STATES), epoch=1, total=draw(st.integers(0, 9)))
        if status.state in ENDED_STATES:
            status.ended_at.CopyFrom(stamp(draw(MOMENTS)))
        elif draw(st.booleans()):
            claim = CLAIM
    if draw(st.booleans()):
        cancel = cancelled_at(draw(MOMENTS))
    note = pb.BatchApplication(message="waits") if draw(st.booleans()) else None
    return Batch(order_of(mode="own" if note else ""), status, cancel, claim, application=note)


@given(batches(), MOMENTS, MOMENTS)
def test_what_has_ended_stays_as_it_is(batch: Batch, one: float, other: float) -> None:
    before, after = sorted((one, other))
    if ends_at(batch, before) is None:
        return
    assert view(batch, before) == view(batch, after)
    assert not is_claimable(batch, after)
    assert not is_claimable(batch, before)


@given(batches(), MOMENTS)
def test_a_status_has_its_time(batch: Batch, now: float) -> None:
    told = view(batch, now)
    ended = {word for word in ENDED_WORDS if told[f"{word}_at"] is not None}  # type: ignore[literal-required]
    assert ended == ({told["status"]} & ENDED_WORDS)
    assert (told["status"] in ENDED_WORDS) == (ends_at(batch, now) is not None)
    if told["status"] == "cancelling":
        assert told["cancelling_at"] is not None


@given(batches(), MOMENTS)
def test_who_is_behind_by_the_skew_claims_nothing_that_others_see_ended(batch: Batch, now: float) -> None:
    if ends_at(batch, now) is not None:
        assert not is_claimable(batch, now - SKEW_S)


@given(batches(), MOMENTS)
def test_a_batch_that_has_not_ended_can_be_claimed_again_by_its_own_runner_only(batch: Batch, now: float) -> None:
    if batch.claim is not None:
        assert not is_claimable(batch, now, "another")
        assert not is_claimable(batch, now)


@pytest.mark.parametrize(
    ("batch", "after_s", "word"),
    [
        (Batch(order_of()), 0, "validating"),
        (Batch(order_of()), WINDOW_S - 1, "validating"),
        (Batch(order_of()), WINDOW_S, "expired"),
        (Batch(order_of(), cancel=cancelled_at(T0 + 9)), 9, "cancelled"),
        (Batch(order_of(), cancel=cancelled_at(T0 + WINDOW_S + 1)), WINDOW_S + 2, "expired"),
        (Batch(order_of(), pb.BatchStatus(state=pb.IN_PROGRESS), claim=CLAIM), 2 * WINDOW_S, "in_progress"),
        (Batch(order_of(), pb.BatchStatus(state=pb.IN_PROGRESS), cancelled_at(T0 + 5), CLAIM), 6, "cancelling"),
        (Batch(order_of(), pb.BatchStatus(state=pb.IN_PROGRESS), cancelled_at(T0 + 5)), 6, "cancelling"),
        (Batch(order_of(), pb.BatchStatus(state=pb.IN_PROGRESS), cancelled_at(T0 + 5)), 5 + ABANDONED_S, "cancelled"),
        (Batch(order_of(), pb.BatchStatus(state=pb.FINALIZING)), WINDOW_S + 1, "finalizing"),
        (Batch(order_of(), pb.BatchStatus(state=pb.FINALIZING)), WINDOW_S + ABANDONED_S, "expired"),
        (Batch(order_of(), pb.BatchStatus(state=pb.COMPLETED), cancelled_at(T0 + 5)), 6, "completed"),
    ],
)
def test_its_word(batch: Batch, after_s: float, word: str) -> None:
    assert word_of(batch, T0 + after_s) == word


def test_all_fields_are_told() -> None:
    bad = pb.BatchLineError(code="invalid_json_line", message="no JSON", line=2)
    status = pb.BatchStatus(state=pb.FAILED_VALIDATION, total=3, completed=1, failed=1, model="m", error_count=2)
    status.errors.extend([bad, pb.BatchLineError(code="c", message="m")])
    status.prompt_tokens, status.completion_tokens, status.cached_tokens = 7, 5, 2
    status.output_file, status.error_file = "file-o", "file-e"
    for field, after_s in (("in_progress_at", 1), ("finalizing_at", 2), ("ended_at", 3)):
        getattr(status, field).CopyFrom(stamp(T0 + after_s))
    assert view(Batch(order_of(metadata={"a": "b"}), status), T0 + 4) == {
        "id": "batch_1",
        "object": "batch",
        "endpoint": "/v1/chat/completions",
        "model": "m",
        "errors": {
            "object": "list",
            "data": [
                {"code": "invalid_json_line", "message": "no JSON", "param": None, "line": 2},
                {"code": "c", "message": "m", "param": None, "line": None},
            ],
        },
        "input_file_id": "file-1",
        "completion_window": "1h",
        "status": "failed",
        "output_file_id": "file-o",
        "error_file_id": "file-e",
        "created_at": int(T0),
        "in_progress_at": int(T0) + 1,
        "expires_at": int(T0) + WINDOW_S,
        "finalizing_at": int(T0) + 2,
        "completed_at": None,
        "failed_at": int(T0) + 3,
        "expired_at": None,
        "cancelling_at": None,
        "cancelled_at": None,
        "request_counts": {"total": 3, "completed": 1, "failed": 1},
        "usage": {
            "input_tokens": 7,
            "input_tokens_details": {"cached_tokens": 2},
            "output_tokens": 5,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 12,
        },
        "metadata": {"a": "b"},
        "mode": "shared",
        "application": None,
        "message": None,
        "attempts": 0,
        "last_failure": None,
    }


def test_what_an_application_of_its_own_says_is_told_until_the_batch_ends() -> None:
    note = pb.BatchApplication(name="batch-1", message="waits")
    batch = Batch(order_of(mode="own"), application=note)
    before, after = view(batch, T0), view(batch, T0 + WINDOW_S)
    assert [(one["mode"], one["application"], one["message"]) for one in (before, after)] == [
        ("own", "batch-1", "waits"),
        ("own", "batch-1", None),
    ]


@pytest.mark.parametrize(("window_s", "text"), [(86400, "24h"), (5400, "90m"), (45, "45s"), (3600, "1h")])
def test_a_window_is_told_as_it_is_given(window_s: int, text: str) -> None:
    assert window_text(window_s) == text


def kv_of(part: str, value: bytes, revision: int, batch_id: str = "batch_1") -> KeyValue:
    return KeyValue(keys.batch("default", batch_id, part), value, revision, revision, 1, 0)


def test_records_are_read_in_any_order_and_damaged_ones_left_out() -> None:
    order, status = order_of(), pb.BatchStatus(state=pb.IN_PROGRESS, epoch=1)
    kvs = [
        kv_of("order", encode(order), 3),
        kv_of("status", encode(status), 5),
        kv_of("cancel", encode(cancelled_at(T0)), 4),
        kv_of("claim", encode(CLAIM), 5),
        kv_of("order", b"{", 6, "batch_2"),
        kv_of("order", encode(order), 6, "batch_3"),  # which is another's
        kv_of("status", encode(status), 7, "batch_4"),  # without an order
        kv_of("order", encode(order_of("batch_5")), 8, "batch_5"),
        kv_of("status", b"rubbish", 8, "batch_5"),
    ]
    note = pb.BatchApplication(name="a")
    kvs.append(kv_of("application", encode(note), 9))
    whole = Batch(
        order,
        status,
        cancelled_at(T0),
        CLAIM,
        status_revision=5,
        cancel_revision=4,
        claim_revision=5,
        application=note,
        application_revision=9,
        order_revision=3,
    )
    for some in itertools.islice(itertools.permutations(kvs), 0, None, 40_000):
        assert read_batches(some) == {("default", "batch_1"): whole}


@pytest.mark.parametrize(
    ("namespaces", "models", "allowed"),
    [
        ((), (), True),
        (("n",), (), True),
        (("x",), (), False),
        ((), ("m*",), True),
        ((), ("a/m",), True),
        ((), ("z",), False),
    ],
)
def test_a_batch_may_ask_what_its_key_may(namespaces: tuple[str], models: tuple[str], allowed: bool) -> None:
    order = order_of(namespaces=namespaces, models=models)
    assert may_ask(order, namespace="n", application="a", model="m1" if "m*" in models else "m") is allowed
