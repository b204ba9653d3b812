"""One request at a time: what is tried again, what is not, and what the caller is told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from sdk_harness import FixedSource, Replica, ask, ask_raw, until

from serving._proto import records_pb2 as pb
from serving.discovery.client_config import ClientConfig
from serving.discovery.client_trace import current_traceparent
from serving.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    MeshError,
    NotFound,
    NotSupported,
    ResourceExhausted,
    Unavailable,
)
from serving.routing import OutlierConfig, RetryBudgetConfig, RoutingPolicy, prefer_labels

Start = Callable[..., list[Replica]]
NO_EJECTION = ClientConfig(outliers=OutlierConfig(consecutive_failures=10**6, failure_rate=2.0))


async def test_both_are_used_and_deadline_and_trace_arrive(replicas: Start, connect: Any) -> None:
    one, two = replicas("one", "two")
    client = await connect(FixedSource(one.endpoint(), two.endpoint()))
    seen = {await ask(client) for _ in range(40)}
    assert seen == {"one", "two"}
    trace = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
    token = current_traceparent.set(trace)
    answer = await ask_raw(client, timeout_s=60.0)
    current_traceparent.reset(token)
    assert 0 < answer.parameters["left_s"].double_param <= 61  # gRPC rounds it up
    got = answer.parameters["traceparent"].string_param
    assert got[:36] == trace[:36]
    assert got[36:52] != trace[36:52], "a span of its own"
    given = await ask_raw(client, metadata=(("traceparent", trace),))
    assert given.parameters["traceparent"].string_param == trace
    assert client.stats.succeeded == client.stats.attempts == 42


@pytest.mark.parametrize(
    ("code", "kind", "attempts"),
    [
        ("INVALID_ARGUMENT", InvalidArgument, 1),
        ("FAILED_PRECONDITION", FailedPrecondition, 1),
        ("UNIMPLEMENTED", NotSupported, 1),
        ("INTERNAL", Internal, 1),
        ("UNKNOWN", Internal, 1),
        ("NOT_FOUND", NotFound, 2),
        ("UNAVAILABLE", Unavailable, 3),
        ("RESOURCE_EXHAUSTED", ResourceExhausted, 3),
        ("CANCELLED", Unavailable, 3),
    ],
)
async def test_what_is_tried_again(
    replicas: Start, connect: Any, code: str, kind: type[MeshError], attempts: int
) -> None:
    both = replicas("one", "two")
    for replica in both:
        replica.behave("error", code=code, details="because")
    config = ClientConfig(outliers=NO_EJECTION.outliers, max_attempts=3)
    client = await connect(FixedSource(*(replica.endpoint() for replica in both)), config=config)
    with pytest.raises(kind, match=rf"because \(replica (one|two) at 127\.0\.0\.1:\d+, attempt {attempts}\)"):
        await ask(client)
    counts = [replica.counts()["infer"] for replica in both]
    assert sum(counts) == client.stats.attempts == attempts
    assert attempts == 1 or min(counts) >= 1, "elsewhere means another replica"
    assert client.stats.failed_by_code == {kind.code.name: 1}


@pytest.mark.parametrize("code", ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "NOT_FOUND", "CANCELLED"])
async def test_the_other_one_answers(replicas: Start, connect: Any, code: str) -> None:
    bad, good = replicas("bad", "good")
    bad.behave("error", code=code, details="not now")
    client = await connect(FixedSource(bad.endpoint(), good.endpoint()), config=NO_EJECTION)
    assert [await ask(client) for _ in range(20)] == ["good"] * 20
    assert bad.counts()["infer"] == client.stats.retries > 0


async def test_not_retry_safe_is_executed_once(replicas: Start, connect: Any) -> None:
    bad, good = replicas("bad", "good")
    bad.behave("error", code="UNAVAILABLE", details="half done")
    client = await connect(FixedSource(bad.endpoint(), good.endpoint()), config=NO_EJECTION)
    outcomes = []
    for number in range(20):
        try:
            outcomes.append(await ask(client, retry_safe=False, request_id=str(number)))
        except Unavailable as error:
            outcomes.append(error.message.partition(" (")[0])
    seen = bad.counts()["seen_ids"] + good.counts()["seen_ids"]
    assert len(seen) == len(set(seen)) == 20
    assert {"good", "half done"} == set(outcomes)


async def test_not_retry_safe_goes_elsewhere_when_it_was_never_sent(replicas: Start, connect: Any) -> None:
    gone, good = replicas("gone", "good")
    source = FixedSource(gone.endpoint(), good.endpoint())
    gone.kill()
    client = await connect(source)
    assert [await ask(client, retry_safe=False) for _ in range(20)] == ["good"] * 20
    assert set(source.refusals) == {"gone"}


async def test_too_large_messages_are_not_tried_again(replicas: Start, connect: Any) -> None:
    (one,) = replicas("one")
    one.behave("error", code="RESOURCE_EXHAUSTED", details="Received message larger than max (10 vs. 5)")
    client = await connect(FixedSource(one.endpoint()))
    with pytest.raises(ResourceExhausted, match="larger than max"):
        await ask(client)
    assert client.stats.attempts == 1


async def test_deadline_is_kept(replicas: Start, connect: Any) -> None:
    (one,) = replicas("one")
    client = await connect(FixedSource(one.endpoint()))
    await ask(client)
    one.behave("hang")
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded, match=r"replica one at"):
        await ask(client, timeout_s=2.0)
    assert 1.9 < time.monotonic() - started < 30.0
    await until(lambda: one.counts()["cancelled"] == 1, what="the server heard of it")


async def test_caller_gone_means_work_stopped(replicas: Start, connect: Any) -> None:
    (one,) = replicas("one")
    one.behave("hang")
    client = await connect(FixedSource(one.endpoint()))
    call = asyncio.create_task(ask(client))
    await until(lambda: one.counts()["running"] == 1, what="it runs")
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await until(lambda: one.counts()["cancelled"] == 1, what="the server heard of it")
    assert client.stats.cancelled == 1
    assert client.stats.in_flight == 0


async def test_waits_for_the_first_endpoint(replicas: Start, connect: Any) -> None:
    (one,) = replicas("one")
    source = FixedSource()
    client = await connect(source)
    calls = [asyncio.create_task(ask(client)) for _ in range(5)]
    await until(lambda: client.stats.waited == 5, what="they wait")
    source.set(one.endpoint(state="draining"))
    await asyncio.sleep(0)
    source.set(one.endpoint())
    assert await asyncio.gather(*calls) == ["one"] * 5


async def test_says_why_there_is_none(replicas: Start, connect: Any) -> None:
    (one,) = replicas("one")
    source = FixedSource()
    source.set(stale=True)
    client = await connect(source)
    assert client.stale
    with pytest.raises(Unavailable, match=r"default/digits became ready in time: none is registered; etcd has not"):
        await ask(client, timeout_s=0.2)
    source.set(one.endpoint(state="draining"))
    with pytest.raises(Unavailable, match="1 known, none takes new work"):
        await ask(client, timeout_s=0.2)


async def test_only_those_that_offer_the_model(replicas: Start, connect: Any) -> None:
    one, two = replicas("one", "two")
    models = [pb.ModelRecord(name="other", versions=["1", "2"])]
    source = FixedSource(one.endpoint(), two.endpoint(models=models, deployment="extra"))
    client = await connect(source, config=ClientConfig(unknown_model_wait_s=0.1))
    assert {await ask(client, model="other") for _ in range(10)} == {"two"}
    assert {await ask(client, model="other", version="2") for _ in range(5)} == {"two"}
    assert {await ask(client, model="digits") for _ in range(10)} == {"one"}
    assert {await ask(client, model="", deployment="extra") for _ in range(5)} == {"two"}
    with pytest.raises(NotFound, match=r"offers model digit; did you mean `digits`\? \(offered: digits, other\)"):
        await ask(client, model="digit")
    with pytest.raises(NotFound, match=r"model other in version 3"):
        await ask(client, model="other", version="3")
    with pytest.raises(NotFound, match=r"digits/extra offers model digits"):
        await ask(client, model="digits", deployment="extra")


async def test_a_model_that_appears_just_now_is_waited_for(replicas: Start, connect: Any) -> None:
    one, two = replicas("one", "two")
    source = FixedSource(one.endpoint())
    client = await connect(source, config=ClientConfig(unknown_model_wait_s=30.0))
    call = asyncio.create_task(ask(client, model="new"))
    await until(lambda: client.stats.waited == 1, what="it waits")
    source.set(one.endpoint(), two.endpoint(models=[pb.ModelRecord(name="new")]))
    assert await call == "two"


async def test_near_ones_first_others_when_they_fail(replicas: Start, connect: Any) -> None:
    near, far = replicas("near", "far")
    source = FixedSource(near.endpoint(labels={"zone": "a"}), far.endpoint(labels={"zone": "b"}))
    client = await connect(source, rank=prefer_labels({"zone": "a"}))
    assert {await ask(client) for _ in range(20)} == {"near"}
    near.kill()
    assert {await ask(client) for _ in range(20)} == {"far"}


async def test_a_policy_prefers_labels_too(replicas: Start, connect: Any) -> None:
    near, far = replicas("near", "far")
    source = FixedSource(near.endpoint(labels={"zone": "a"}), far.endpoint(labels={"zone": "b"}))
    policy = RoutingPolicy.from_dict({"prefer_labels": {"zone": "b"}, "choice": "least_latency"})
    client = await connect(source, config=ClientConfig.from_policy(policy))
    assert {await ask(client) for _ in range(20)} == {"far"}
    client = await connect(source, config=ClientConfig.from_policy(policy), rank=prefer_labels({"zone": "a"}))
    assert {await ask(client) for _ in range(20)} == {"near"}, "what the program says counts"


async def test_users_stay_on_their_replica_until_it_is_gone(replicas: Start, connect: Any) -> None:
    three = {replica.name: replica for replica in replicas("one", "two", "three")}
    policy = RoutingPolicy(choice="consistent_hash", hash_key="user")
    source = FixedSource(*(replica.endpoint() for replica in three.values()))
    client = await connect(source, config=ClientConfig.from_policy(policy))
    users = [f"user-{number}" for number in range(30)]

    async def owners() -> dict[str, str]:
        return {user: await ask(client, metadata=(("tenant", "t"), ("user", user))) for user in users}

    before = await owners()
    assert set(before.values()) == set(three)
    assert await owners() == before
    three["one"].kill()
    after = await owners()
    assert {user for user in users if after[user] != before[user]} == {user for user in users if before[user] == "one"}
    assert set(after.values()) == {"two", "three"}


async def test_wrong_use_is_refused_at_once(connect: Any) -> None:
    client = await connect(FixedSource())
    with pytest.raises(NotSupported, match="has no method ModelStreamInfer"):
        await client.call("ModelStreamInfer", None, timeout_s=1.0)
    for timeout_s in (0.0, -1.0, float("nan"), float("inf"), 1e18):
        with pytest.raises(InvalidArgument, match="must be more than 0"):
            await client.call("ModelInfer", None, timeout_s=timeout_s)


async def test_close_ends_what_runs(replicas: Start, connect: Any) -> None:
    (one,) = replicas("one")
    one.behave("hang")
    client = await connect(FixedSource(one.endpoint()))
    call = asyncio.create_task(ask(client))
    waiting = asyncio.create_task(ask(client, model="", deployment="nowhere"))
    await until(lambda: one.counts()["running"] == 1, what="it runs")
    await client.close()
    with pytest.raises(Unavailable, match="the inference client was closed"):
        await call
    with pytest.raises(FailedPrecondition, match="closed"):
        await waiting
    with pytest.raises(FailedPrecondition, match="closed"):
        await ask(client)
    await client.close()


async def test_budget_ends_retries_under_total_failure(replicas: Start, connect: Any) -> None:
    both = replicas("one", "two")
    for replica in both:
        replica.behave("error", code="UNAVAILABLE", details="overloaded")
    budget = RetryBudgetConfig(share=0.1, min_per_s=0.0, capacity=10.0)
    config = ClientConfig(budget=budget, outliers=NO_EJECTION.outliers, backoff_s=0.001, backoff_max_s=0.001)
    client = await connect(FixedSource(*(replica.endpoint() for replica in both)), config=config)
    results = await asyncio.gather(*(ask(client) for _ in range(200)), return_exceptions=True)
    assert all(isinstance(result, Unavailable) for result in results)
    assert any("the retry budget is used up" in str(result) for result in results)
    assert client.stats.retries <= 10 + 0.1 * 200
    assert sum(replica.counts()["infer"] for replica in both) == 200 + client.stats.retries
