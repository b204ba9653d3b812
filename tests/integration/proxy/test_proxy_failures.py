"""Replicas that die, hang, fail, drain or are full while requests go through a proxy."""

from __future__ import annotations

from collections.abc import Callable

import grpc
import pytest
from proxy_harness import Proxy, infer, who
from proxy_load import traffic
from sdk_harness import Replica

from serving.local.ports import free_ports
from tests.support.waiting import eventually

Replicas = Callable[..., list[Replica]]
StartProxy = Callable[..., Proxy]
QUICK = {"outliers": {"base_s": 0.2, "max_s": 1.0}, "suspect_after_s": 0.3, "probe_timeout_s": 0.5}


def test_no_request_fails_when_one_of_two_is_killed(replicas: Replicas, start_proxy: StartProxy) -> None:
    one, two = replicas("one", "two")
    proxy = start_proxy(one.address, two.address)
    with traffic(proxy) as load:
        load.more(50, of="one")
        one.kill()
        load.more(200, of="two")
    assert load.errors == []
    assert proxy.metric("mesh_proxy_ejections_total") >= 1


def test_running_requests_of_a_killed_one_are_answered_elsewhere(replicas: Replicas, start_proxy: StartProxy) -> None:
    one, two = replicas("one", "two")
    proxy = start_proxy(one.address, two.address)
    one.behave("hang")
    calls = [proxy.stub.ModelInfer.future(infer(), timeout=100) for _ in range(20)]
    eventually(lambda: one.counts()["running"] >= 3, timeout_s=60, what="some run there")
    one.kill()
    assert [who(call.result()) for call in calls] == ["two"] * 20


def test_a_hung_one_is_left_and_its_requests_go_elsewhere(replicas: Replicas, start_proxy: StartProxy) -> None:
    one, two = replicas("one", "two")
    proxy = start_proxy(one.address, two.address, policy=QUICK)
    with traffic(proxy) as load:
        load.more(20, of="one")
        one.pause()
        load.more(100, of="two")
        eventually(lambda: proxy.metric("mesh_proxy_ejections_total") >= 1, timeout_s=60, what="it is ejected")
        one.resume()
        load.more(20, of="one")
    assert load.errors == []
    assert proxy.metric("mesh_proxy_restored_total") >= 1


def test_a_draining_one_costs_nobody_anything(replicas: Replicas, start_proxy: StartProxy) -> None:
    one, two = replicas("one", "two")
    proxy = start_proxy(one.address, two.address, policy=QUICK)
    with traffic(proxy) as load:
        load.more(20, of="one")
        one.behave("drain")
        load.more(100, of="two")
    assert load.errors == []


def test_one_that_fails_is_left_out_and_taken_back(replicas: Replicas, start_proxy: StartProxy) -> None:
    bad, good = replicas("bad", "good")
    bad.behave("error", code="INTERNAL", details="broken")
    proxy = start_proxy(bad.address, good.address, policy=QUICK)
    with traffic(proxy, callers=2) as load:
        eventually(lambda: proxy.metric("mesh_proxy_ejections_total") >= 1, timeout_s=60, what="it is ejected")
        bad.behave()
        load.more(10, of="bad")
    assert all("broken" in error for error in load.errors)


def test_a_full_proxy_refuses_at_once(replicas: Replicas, start_proxy: StartProxy) -> None:
    (one,) = replicas("one")
    one.behave("hang")
    proxy = start_proxy(one.address, policy={"max_in_flight_per_endpoint": 2, "max_queued": 3})
    calls = [proxy.stub.ModelInfer.future(infer(), timeout=100) for _ in range(5)]
    eventually(lambda: proxy.metric("mesh_proxy_waiting") == 3, timeout_s=60, what="three wait")
    eventually(lambda: one.counts()["running"] == 2, timeout_s=60, what="two run")
    with pytest.raises(grpc.RpcError) as caught:
        proxy.stub.ModelInfer(infer(), timeout=100)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "3 requests wait" in caught.value.details()
    for call in calls[:3]:
        call.cancel()
    one.behave()
    for call in calls[3:]:
        call.cancel()
    assert who(proxy.stub.ModelInfer(infer(), timeout=100)) == "one", "room comes back"


def test_who_waits_is_served_in_order(replicas: Replicas, start_proxy: StartProxy) -> None:
    (one,) = replicas("one")
    one.behave(delay_s=0.05)
    proxy = start_proxy(one.address, policy={"max_in_flight_per_endpoint": 1})
    calls = []
    for number in range(10):
        calls.append(proxy.stub.ModelInfer.future(infer(request_id=f"{number}"), timeout=100))
        eventually(
            lambda wanted=number: proxy.metric("mesh_rpc_calls_total") >= wanted + 1, timeout_s=60, what="it is there"
        )
    for call in calls:
        call.result()
    assert one.counts()["seen_ids"] == [f"{number}" for number in range(10)]


def test_a_slow_answer_is_asked_for_elsewhere_too(replicas: Replicas, start_proxy: StartProxy) -> None:
    one, two = replicas("one", "two")
    one.behave("hang")
    two.behave("hang")
    proxy = start_proxy(one.address, two.address, policy={"hedge_after_s": 0.1})
    call = proxy.stub.ModelInfer.future(infer(), timeout=100)
    eventually(
        lambda: one.counts()["running"] == 1 and two.counts()["running"] == 1, timeout_s=60, what="both are asked"
    )
    call.cancel()
    eventually(
        lambda: one.counts()["cancelled"] == 1 and two.counts()["cancelled"] == 1, timeout_s=60, what="both are told"
    )
    one.behave()
    assert [who(proxy.stub.ModelInfer(infer(), timeout=100)) for _ in range(5)] == ["one"] * 5


def test_requests_wait_for_the_first_replica(start_proxy: StartProxy) -> None:
    """Nobody listens yet: the request is held, within its deadline, and answered as soon as somebody does."""
    (port,) = free_ports(1)  # which no client can be given meanwhile, not even the proxy that tries it
    proxy = start_proxy(f"127.0.0.1:{port}", policy=QUICK)
    call = proxy.stub.ModelInfer.future(infer(), timeout=100)
    eventually(lambda: proxy.metric("mesh_proxy_attempts_total") >= 1, timeout_s=60, what="it was tried")
    again = Replica("again", port)
    try:
        again.wait_ready()
        assert who(call.result()) == "again"
    finally:
        again.close()


def test_what_may_not_be_repeated_is_not(replicas: Replicas, start_proxy: StartProxy) -> None:
    one, two = replicas("one", "two")
    one.behave("hang")
    two.behave("hang")
    proxy = start_proxy(one.address, two.address)
    call = proxy.stub.ModelInfer.future(infer(), timeout=100, metadata=[("mesh-retry", "never")])
    eventually(lambda: one.counts()["running"] + two.counts()["running"] == 1, timeout_s=60, what="it runs")
    there, other = (one, two) if one.counts()["running"] else (two, one)
    there.kill()
    with pytest.raises(grpc.RpcError) as caught:
        call.result()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert there.address in caught.value.details()
    assert other.counts()["infer"] == 0


def test_who_has_no_room_is_asked_again(replicas: Replicas, start_proxy: StartProxy) -> None:
    (one,) = replicas("one")
    one.behave("error", code="RESOURCE_EXHAUSTED", details="full")
    proxy = start_proxy(one.address)
    call = proxy.stub.ModelInfer.future(infer(), timeout=100)
    eventually(lambda: one.counts()["infer"] >= 3, timeout_s=60, what="it is asked again")
    one.behave()
    assert who(call.result()) == "one"
    assert proxy.metric("mesh_proxy_ejections_total") == 0


def test_retries_have_a_budget(replicas: Replicas, start_proxy: StartProxy) -> None:
    (one,) = replicas("one")
    one.behave("error", code="RESOURCE_EXHAUSTED", details="full")
    proxy = start_proxy(one.address, policy={"budget": {"share": 0.0, "min_per_s": 0.0, "capacity": 3}})
    with pytest.raises(grpc.RpcError) as caught:
        proxy.stub.ModelInfer(infer(), timeout=100)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "retry budget" in caught.value.details()
    assert one.counts()["infer"] == 4


def test_one_that_was_refused_does_not_hold_up_others(replicas: Replicas, start_proxy: StartProxy) -> None:
    """It waits for the other endpoint, which is busy for long; room at the first one must go to whoever waits."""
    busy, free = replicas("busy", "free")
    busy.behave("hang")
    free.behave("error", code="RESOURCE_EXHAUSTED", details="full")
    proxy = start_proxy(busy.address, free.address, policy={"max_in_flight_per_endpoint": 1})
    calls = [proxy.stub.ModelInfer.future(infer(), timeout=100) for _ in range(4)]
    eventually(
        lambda: busy.counts()["running"] == 1 and free.counts()["infer"] >= 2, timeout_s=60, what="all are there"
    )
    free.behave()
    eventually(lambda: sum(call.done() for call in calls) == 3, timeout_s=90, what="all but the one at the busy one")
    assert [who(call.result()) for call in calls if call.done()] == ["free"] * 3
    for call in calls:
        call.cancel()
