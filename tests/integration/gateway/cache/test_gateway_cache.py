"""A semantic cache at a gateway: what it answers, what it never does, who generates."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from serving.local.etcd import EtcdCluster
from tests.integration.gateway.cache.cached_edge import (
    CONTENT,
    FRANCE,
    TELL_ME,
    Edge,
    asked,
    content,
    is_stored,
    says,
    stored,
    until,
)
from tests.integration.gateway.raw_replica import raw_replica
from tests.integration.gateway.speaker import USAGE, Speaker
from tests.support.waiting import aeventually


async def test_the_same_and_nearly_the_same_question(edge: Edge) -> None:
    assert await edge.said() == ("miss", "Answer 1 from here.")
    await stored(edge)
    exact, near = await edge.ask(), await edge.ask(TELL_ME)
    assert content(exact) == content(near) == "Answer 1 from here."
    assert (exact.headers["x-mesh-cache"], exact.headers["x-mesh-cache-similarity"]) == ("exact", "1.0000")
    assert near.headers["x-mesh-cache"] == "semantic"
    assert 0.8 <= float(near.headers["x-mesh-cache-similarity"]) < 1
    assert exact.json()["usage"] == USAGE
    assert exact.json()["id"] != near.json()["id"]
    assert exact.headers["x-mesh-cache-scope"] == near.headers["x-mesh-cache-scope"]
    assert (await edge.said("What is the capital of Germany?"))[0] == "miss"
    assert edge.speaker.answers == 2


async def test_openais_client_gets_streams_from_whole_answers_and_the_other_way_round(edge: Edge) -> None:
    assert (await edge.said())[0] == "miss"
    await stored(edge)
    text, chunks = await edge.stream(stream_options={"include_usage": True})
    assert text == "Answer 1 from here."
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 2) + ["stop"]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 10
    assert len({chunk.id for chunk in chunks}) == 1

    question = "Who wrote Hamlet?"
    first, _ = await edge.stream(question, stream_options={"include_usage": True})
    await stored(edge, question)
    again = await edge.openai.chat.completions.create(
        model=edge.model, messages=[{"role": "user", "content": question}]
    )
    assert again.choices[0].message.content == first == "Answer 2 from here."
    assert again.usage is not None
    assert again.usage.completion_tokens == 3
    assert edge.speaker.answers == 2


async def test_a_stream_without_usage_answers_only_those_who_do_not_want_it(edge: Edge) -> None:
    first, _ = await edge.stream()
    await stored(edge, stream=True)
    assert (await edge.stream())[0] == first
    assert await edge.said() == ("miss", "Answer 2 from here.")
    await stored(edge)
    assert (await edge.stream())[0] == "Answer 2 from here."


async def test_nothing_crosses_scopes(edge: Edge, etcd: EtcdCluster) -> None:
    await edge.said()
    await stored(edge)
    system = [{"role": "system", "content": "Answer in French."}, {"role": "user", "content": FRANCE}]
    others: list[dict[str, Any]] = [
        {"messages": system}, {"temperature": 0.2}, {"max_tokens": 5}, {"seed": 1}, {"stop": ["x"]},
        {"response_format": {"type": "json_object"}}, {"logprobs": True}, {"unheard_of": 1},
    ]  # fmt: skip
    for number, other in enumerate(others):
        assert await edge.said(**other) == ("miss", f"Answer {number + 2} from here.")
    speaker, model = Speaker(), f"{edge.model}-other"
    async with raw_replica(etcd.config(), model, speaker, model=model, content=CONTENT):
        await until(lambda: knows_name(edge, model), what="the other model")
        assert (await edge.said(model=model))[0] == "miss"
    assert await edge.said() == ("exact", "Answer 1 from here.")


async def knows_name(edge: Edge, model: str) -> bool:
    return (await edge.http.get(f"/v1/models/{model}")).status_code == 200


async def test_what_is_never_cached_is_not_asked_for(edge: Edge) -> None:
    for other in ({"n": 2}, {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "required"}):
        assert [(await edge.said(**other))[0] for _ in range(2)] == ["", ""]
    assert (await edge.said(temperature=1.5))[0] == ""
    assert (await edge.said("x" * 300_000))[0] == ""
    assert edge.speaker.answers == 6


async def test_cache_control(edge: Edge) -> None:
    none = await edge.ask(headers={"cache-control": "only-if-cached"})
    assert (none.status_code, none.json()["error"]["code"]) == (504, "not_cached")
    assert edge.speaker.answers == 0
    assert await edge.said(headers={"cache-control": "no-store"}) == ("", "Answer 1 from here.")
    assert await edge.said() == ("miss", "Answer 2 from here.")
    await stored(edge)
    assert (await edge.said(headers={"cache-control": "max-age=100"}))[0] == "exact"
    assert await edge.said(headers={"cache-control": "no-store"}) == ("", "Answer 3 from here.")
    assert await edge.said() == ("exact", "Answer 2 from here.")
    assert await edge.said(headers={"cache-control": "no-cache"}) == ("miss", "Answer 4 from here.")
    await until(lambda: says(edge, "Answer 4 from here."), what="the new answer is stored")
    assert (await edge.said(headers={"cache-control": "max-age=0"}))[0] == "miss"


async def test_bad_requests_are_the_replicas_business_and_bad_tags_ours(edge: Edge) -> None:
    await edge.said()
    await stored(edge)
    assert (await edge.said(user=5))[0] == ""  # this replica does not mind
    wrong = await edge.ask(headers={"x-mesh-cache-tags": ",".join(map(str, range(17)))})
    assert wrong.status_code == 400
    assert "16 tags" in wrong.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
async def test_thirty_same_questions_cause_one_generation(edge: Edge, stream: bool) -> None:
    edge.speaker.hold.clear()
    asking = [asyncio.create_task(edge.stream() if stream else edge.said()) for _ in range(30)]
    await until(lambda: asked(edge, 1), what="the leader asks")
    await asyncio.sleep(0.2)
    edge.speaker.hold.set()
    answers = await asyncio.gather(*asking)
    assert edge.speaker.answers == 1
    texts = {answer[0] if stream else answer[1] for answer in answers}
    assert texts == {"Answer 1 from here."}


async def test_followers_of_a_cut_answer_generate_their_own(edge: Edge) -> None:
    edge.speaker.finish = "length"
    edge.speaker.hold.clear()
    asking = [asyncio.create_task(edge.said()) for _ in range(5)]
    await until(lambda: asked(edge, 1), what="the leader asks")
    edge.speaker.hold.set()
    answers = await asyncio.gather(*asking)
    assert len({text for _, text in answers}) == edge.speaker.answers
    assert not await is_stored(edge, FRANCE, {})


async def test_a_leader_that_leaves_hands_its_turn_on(edge: Edge) -> None:
    edge.speaker.hold.clear()
    leader = asyncio.create_task(edge.said())
    await until(lambda: asked(edge, 1), what="the leader asks")
    followers = [asyncio.create_task(edge.said()) for _ in range(5)]
    await asyncio.sleep(0.2)
    leader.cancel()
    await until(lambda: asked(edge, 2), what="another one leads")
    edge.speaker.hold.set()
    answers = await asyncio.gather(*followers)
    assert edge.speaker.answers == 2
    assert {text for _, text in answers} == {"Answer 2 from here."}


async def test_a_stream_that_breaks_is_not_kept(edge: Edge) -> None:
    edge.speaker.breaks = True
    body = {"model": edge.model, "messages": [{"role": "user", "content": FRANCE}], "stream": True}
    broken = await edge.http.post("/v1/chat/completions", json=body)
    assert "broke off" in broken.text
    assert "[DONE]" not in broken.text
    assert not await is_stored(edge, FRANCE, {"stream": True})
    edge.speaker.breaks = False
    text, _ = await edge.stream()
    assert text == "Answer 2 from here."


async def test_a_client_that_leaves_in_the_middle_keeps_nothing(edge: Edge) -> None:
    edge.speaker.hold.clear()
    before = await _cancelled(edge)
    body = {"model": edge.model, "messages": [{"role": "user", "content": FRANCE}], "stream": True}
    async with edge.http.stream("POST", "/v1/chat/completions", json=body) as response:
        async for line in response.aiter_lines():
            if "Answer" in line:
                break

    async def noticed() -> bool:
        return await _cancelled(edge) > before

    await aeventually(noticed, what="the gateway hears that the client has gone")
    edge.speaker.hold.set()
    assert not await is_stored(edge, FRANCE, {"stream": True})
    assert (await edge.stream())[0] == "Answer 2 from here."


async def _cancelled(edge: Edge) -> float:
    lines = (await edge.http.get("/metrics")).text.splitlines()
    return float(next(line for line in lines if line.startswith("mesh_gateway_cancelled_total ")).split()[1])
