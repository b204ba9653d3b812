"""A sender against endpoints that refuse, fail, hang and go away."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import Any

import pytest

from serving.batch.rows.request import COMPLETIONS, RowRequest
from serving.batch.sending.make import make_sender
from serving.batch.sending.openai_http import OpenAiHttp
from serving.batch.sending.places import Fixed, FixedPlaces, LaneKey, Spot
from serving.batch.sending.sender import Sender
from serving.batch.sending.window import WindowConfig
from serving.routing import RetryBudgetConfig
from tests.support.row_sender import QUICK, all_of, row, sender_to, text
from tests.support.row_server import RowServer, Said, completion, row_server
from tests.support.waiting import eventually_async


async def answers_at_once(_server: RowServer, body: dict[str, Any]) -> Said:
    return completion(body)


async def test_every_row_gets_its_own_answer_with_the_class_and_the_key() -> None:
    async with (
        row_server(answers_at_once) as one,
        row_server(answers_at_once) as other,
        sender_to(one, other, key="secret") as sender,
    ):
        found = await all_of(sender, [row(f"p{number}") for number in range(300)])
        assert [text(found[number]) for number in range(300)] == [f"p{number}" for number in range(300)]
        assert found[0].request_id.startswith("r")
        assert (sender.stats.rows, sender.stats.answers, sender.stats.faults) == (300, 300, 0)
        assert "x-mesh-class: batch" in one.heads[0]
        assert "authorization: Bearer secret" in one.heads[0]
        assert one.bodies[0]["model"] == "m"
        assert min(len(one.bodies), len(other.bodies)) >= 50


async def test_long_rows_start_first() -> None:
    gate = asyncio.Event()

    async def held(_server: RowServer, body: dict[str, Any]) -> Said:
        await gate.wait()
        return completion(body)

    config = replace(QUICK, window=WindowConfig(first=1, most=1))
    async with row_server(held) as server, sender_to(server, config=config) as sender:
        sending = asyncio.create_task(all_of(sender, [row(f"{tokens}", tokens) for tokens in range(1, 41)]))
        await eventually_async(lambda: sender.stats.rows == 40, what="all rows are in the sender")
        gate.set()
        await sending
        begun = [body["max_tokens"] for body in server.bodies]
        assert begun == [1, *range(40, 1, -1)], "but for the one that was there alone"


async def test_a_replica_that_is_full_gets_fewer_and_loses_no_row() -> None:
    async def three(server: RowServer, body: dict[str, Any]) -> Said:
        if server.in_flight > 3:
            return Said(429, {"error": {"message": "full", "code": "rate_limit_exceeded"}}, {"retry-after": "1"})
        await asyncio.sleep(0.002)
        return completion(body)

    config = replace(QUICK, window=WindowConfig(first=16), max_attempts=1)
    async with row_server(three) as server, sender_to(server, config=config) as sender:
        found = await all_of(sender, [row(f"p{number}") for number in range(200)])
        assert [text(found[number]) for number in range(200)] == [f"p{number}" for number in range(200)]
        assert sender.stats.refusals > 0
        assert sender.stats.retries == 0, "a refusal is no attempt"


async def test_what_fails_is_tried_elsewhere() -> None:
    async def drops(_server: RowServer, _body: dict[str, Any]) -> None:
        return None

    async def fails(_server: RowServer, _body: dict[str, Any]) -> Said:
        return Said(500, {"error": {"message": "oops", "code": "internal_error"}})

    async with (
        row_server(drops) as one,
        row_server(fails) as two,
        row_server(answers_at_once) as three,
        sender_to(one, two, three) as sender,
    ):
        found = await all_of(sender, [row(f"p{number}") for number in range(50)])
        assert [text(found[number]) for number in range(50)] == [f"p{number}" for number in range(50)]
        assert len(one.bodies) + len(two.bodies) < 30, "those that fail rest"


async def test_a_clock_that_is_ahead_leaves_no_row_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """uvloop counts milliseconds from the last turn of the loop: its timers may come early."""

    async def fails_first(server: RowServer, body: dict[str, Any]) -> Said:
        return Said(500, {}) if len(server.bodies) == 1 else completion(body)

    loop = asyncio.get_running_loop()
    rightly = loop.call_later
    async with row_server(fails_first) as server, sender_to(server) as sender:
        monkeypatch.setattr(loop, "call_later", lambda s, *more, **named: rightly(s * 0.9, *more, **named))
        assert text(await asyncio.wait_for(sender.send(row("p")), 30)) == "p"
        monkeypatch.undo()


async def test_a_row_that_fails_everywhere_has_a_fault_with_its_attempts() -> None:
    async def poison(_server: RowServer, body: dict[str, Any]) -> Said:
        if body["prompt"] == "bad":
            return Said(500, {"error": {"message": "oops", "code": "internal_error"}})
        return completion(body)

    async with (
        row_server(poison) as one,
        row_server(poison) as two,
        sender_to(one, two, config=replace(QUICK, max_attempts=3)) as sender,
    ):
        found = await all_of(sender, [row("good"), row("bad"), row("fine")])
        assert (text(found[0]), text(found[2])) == ("good", "fine")
        fault = found[1].fault
        assert fault is not None
        assert (fault.code, fault.message, fault.attempts) == ("internal_error", "oops", 3)
        assert found[1].status == 500


async def test_no_more_is_tried_again_than_the_budget_allows() -> None:
    async def fails(_server: RowServer, _body: dict[str, Any]) -> Said:
        return Said(500, {})

    budget = RetryBudgetConfig(share=0.0, min_per_s=0.0, capacity=5)
    async with (
        row_server(fails) as one,
        row_server(fails) as two,
        sender_to(one, two, config=replace(QUICK, budget=budget, max_attempts=100)) as sender,
    ):
        found = await all_of(sender, [row(f"p{number}") for number in range(10)])
        assert sender.stats.retries == 5
        assert all(answer.fault is not None for answer in found.values())
        assert any("budget" in answer.fault.message for answer in found.values() if answer.fault)
        assert sender.stats.attempts == 15


async def test_a_requests_own_fault_is_an_answer() -> None:
    async def refuses(_server: RowServer, _body: dict[str, Any]) -> Said:
        return Said(400, {"error": {"message": "no", "code": "invalid_type"}})

    async with row_server(refuses) as server, sender_to(server) as sender:
        found = await sender.send(row("p"))
        assert found.fault is not None
        assert (found.status, found.fault.code, found.fault.attempts) == (400, "invalid_type", 1)
        assert found.value["error"]["message"] == "no"
        assert len(server.bodies) == 1


async def test_an_answer_that_is_no_json_is_a_failure_of_the_endpoint() -> None:
    async def broken(server: RowServer, body: dict[str, Any]) -> Said:
        return Said(200, b"<html>") if len(server.bodies) == 1 else completion(body)

    async with row_server(broken) as server, sender_to(server) as sender:
        assert text(await sender.send(row("p"))) == "p"
        assert sender.stats.retries == 1


async def test_an_endpoint_that_says_nothing_is_given_up() -> None:
    async def silent(_server: RowServer, _body: dict[str, Any]) -> None:
        await asyncio.sleep(3600)

    async with (
        row_server(silent) as one,
        row_server(answers_at_once) as two,
        sender_to(one, two, config=replace(QUICK, timeout_s=0.2)) as sender,
    ):
        found = await all_of(sender, [row(f"p{number}") for number in range(20)])
        assert {text(answer) for answer in found.values()} == {f"p{number}" for number in range(20)}


async def test_an_endpoint_that_comes_late_and_one_that_comes_back() -> None:
    async with row_server(answers_at_once) as server:
        await server.close()
        async with sender_to(server) as sender:
            first = asyncio.create_task(sender.send(row("a")))
            await eventually_async(lambda: sender.stats.refusals > 0, what="nobody is there")
            await server.open()
            assert text(await first) == "a"


async def test_rows_fail_when_nobody_answers_for_long() -> None:
    async def full(_server: RowServer, _body: dict[str, Any]) -> Said:
        return Said(503, {"error": {"message": "leaving", "code": "unavailable"}})

    async with row_server(full) as server, sender_to(server, config=replace(QUICK, patience_s=0.5)) as sender:
        found = await all_of(sender, [row(f"p{number}") for number in range(20)])
        faults = [answer.fault for answer in found.values()]
        assert {fault.code for fault in faults if fault} == {"unavailable"}
        assert all(fault and "all of them refuse" in fault.message for fault in faults)


async def test_who_refuses_slowly_is_given_up_too() -> None:
    """There is always a request on its way."""

    async def slowly_full(_server: RowServer, _body: dict[str, Any]) -> Said:
        await asyncio.sleep(0.3)
        return Said(429, {"error": {"message": "full", "code": "rate_limit_exceeded"}})

    config = replace(QUICK, patience_s=0.2, timeout_s=0.7)
    async with row_server(slowly_full) as server, sender_to(server, config=config) as sender:
        found = await all_of(sender, [row(f"p{number}") for number in range(3)])
        assert {answer.fault.code for answer in found.values() if answer.fault} == {"unavailable"}
        assert len(found) == 3


class TwoModels(FixedPlaces):
    """Each at a server of its own."""

    async def lane(self, request: RowRequest) -> tuple[str, RowRequest]:
        return request.model, request

    def spots(self, lane: LaneKey) -> tuple[Spot, ...]:
        one, other = super().spots(lane)
        return (one,) if lane == "one" else (other,)


async def test_rows_of_a_model_that_nobody_answers_fail_though_another_one_is_answered() -> None:
    async def full(_server: RowServer, _body: dict[str, Any]) -> Said:
        return Said(429, {})

    async with row_server(answers_at_once) as server, row_server(full) as other:
        places = TwoModels(Fixed((server.url, other.url)))
        transport = OpenAiHttp(timeout_s=20, max_answer_bytes=1 << 20)
        async with Sender(places, transport, replace(QUICK, patience_s=2)) as sender:
            waiting = asyncio.create_task(sender.send(row("p", model="other")))
            answered = 0
            while not waiting.done():
                assert text(await sender.send(row(f"p{answered}", model="one"))) == f"p{answered}"
                answered += 1
            fault = (await waiting).fault
            assert fault is not None
            assert (fault.code, "(1 known: all of them refuse)" in fault.message) == ("unavailable", True)


async def test_the_same_request_is_computed_once() -> None:
    async with row_server(answers_at_once) as server, sender_to(server) as sender:
        rows = [row(f"p{number % 10}", temperature=0) for number in range(200)]
        found = await all_of(sender, rows)
        assert [text(found[number]) for number in range(200)] == [f"p{number % 10}" for number in range(200)]
        assert len(server.bodies) == 10
        assert sender.stats.same == 190
        assert sum(answer.work > 0 for answer in found.values()) == 10
        await all_of(sender, [row("p1"), row("p1")])
        assert len(server.bodies) == 12, "answers that are drawn are not shared"


async def test_memory_is_bounded_whatever_is_given() -> None:
    gate = asyncio.Event()
    taken = 0

    async def held(_server: RowServer, body: dict[str, Any]) -> Said:
        await gate.wait()
        return completion(body)

    def rows() -> Any:
        nonlocal taken
        for number in range(1000):
            taken += 1
            yield number, row(f"p{number}")

    config = replace(QUICK, max_waiting=16, window=WindowConfig(first=4, most=4))
    async with row_server(held) as server, sender_to(server, config=config) as sender:
        found = sender.send_all(rows())
        first = asyncio.ensure_future(anext(found))
        await eventually_async(lambda: taken >= 20, what="as many rows as may wait")
        await asyncio.sleep(0.05)
        assert taken <= 16 + 4 + 1
        gate.set()
        seen = {(await first)[0], *[number async for number, _ in found]}
        assert seen == set(range(1000))
        assert sender.stats.held_s > 0
        assert server.most == 4


async def test_who_stops_takes_the_rest_back() -> None:
    async def slow(_server: RowServer, body: dict[str, Any]) -> Said:
        await asyncio.sleep(0.01)
        return completion(body)

    async with row_server(slow) as server, sender_to(server) as sender:
        async with contextlib.aclosing(sender.send_all(enumerate(row(f"p{number}") for number in range(500)))) as found:
            async for _ in found:
                break
        assert text(await sender.send(row("after"))) == "after"
        assert len(server.bodies) < 100


async def test_a_fault_of_the_rows_ends_the_stream_of_answers() -> None:
    def rows() -> Any:
        yield 0, row("a")
        raise ZeroDivisionError

    async with row_server(answers_at_once) as server, sender_to(server) as sender:
        with pytest.raises(ZeroDivisionError):
            _ = [found async for found in sender.send_all(rows())]


async def test_closing_answers_rows_with_a_fault() -> None:
    async def silent(_server: RowServer, _body: dict[str, Any]) -> None:
        await asyncio.sleep(3600)

    async with row_server(silent) as server:
        sender = make_sender(Fixed((server.url,), model="m"), QUICK)
        await sender.start()
        sending = [asyncio.create_task(sender.send(row(f"p{number}"))) for number in range(10)]
        await eventually_async(lambda: server.in_flight == 4, what="the first are there")
        await sender.close()
        found = await asyncio.gather(*sending)
        assert {one.fault.code for one in found if one.fault} == {"cancelled"}
        late = await sender.send(row("late"))
        assert late.fault is not None
        await sender.close()


async def test_closing_answers_rows_that_have_just_been_begun() -> None:
    async with row_server(answers_at_once) as server:
        sender = make_sender(Fixed((server.url,), model="m"), QUICK)
        await sender.start()
        sending = [asyncio.create_task(sender.send(row(f"p{number}"))) for number in range(10)]
        await asyncio.sleep(0)  # they are in the sender, and no task of it has run yet
        await sender.close()
        found = await asyncio.wait_for(asyncio.gather(*sending), 120)
        assert [one.fault and one.fault.code for one in found] == ["cancelled"] * 10


async def test_a_row_that_nobody_wants_any_more_is_not_computed_for_those_that_were_the_same() -> None:
    gate = asyncio.Event()

    async def held(_server: RowServer, body: dict[str, Any]) -> Said:
        await gate.wait()
        return completion(body)

    config = replace(QUICK, window=WindowConfig(first=1, most=1))
    async with row_server(held) as server, sender_to(server, config=config) as sender:
        first = asyncio.create_task(sender.send(row("first")))
        same = [asyncio.create_task(sender.send(row("same", temperature=0))) for _ in range(3)]
        await eventually_async(lambda: sender.stats.rows == 4, what="all rows are in the sender")
        for one in same:
            one.cancel()
        await asyncio.wait(same)
        gate.set()
        assert text(await first) == "first"
        assert text(await sender.send(row("last"))) == "last"
        assert [body["prompt"] for body in server.bodies] == ["first", "last"]


async def test_a_row_that_cannot_be_said_in_json_is_its_own_fault() -> None:
    async with row_server(answers_at_once) as server, sender_to(server) as sender:
        found = await sender.send(RowRequest(COMPLETIONS, {"prompt": object()}))
        assert found.fault is not None
        assert found.fault.code == "invalid_request"
