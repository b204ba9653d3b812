"""vLLM beside OpenVINO, and what vLLM alone does."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from examples.chat.training.evaluate import held_out
from serving.errors import FailedPrecondition, InvalidArgument, Unavailable
from serving.llm.engine import Engine
from serving.llm.openvino_engine import OpenVinoEngine
from serving.llm.vllm_engine import VllmEngine
from tests.support.generations import PROMPT, all_of, answer, started_tokens, submit

GGUF_FOLDER = Path(__file__).resolve().parents[2] / "examples" / "chat" / "model"
TALKS = held_out(9)


async def texts(engine: Engine) -> list[str]:
    """The likeliest answers to prompts that both engines render by the model's template."""
    codec = engine.codec
    prompts = [codec.encode(codec.render(talk.messages[:-1], tools=talk.tools or ())) for talk in TALKS]
    answers = await asyncio.gather(*(answer(engine, prompt, max_tokens=80, ignore_eos=False) for prompt in prompts))
    return [codec.decode(tokens) for tokens in answers]


async def test_it_answers_what_openvino_answers(engine: Engine) -> None:
    assert len(TALKS) >= 100
    other = OpenVinoEngine(GGUF_FOLDER, {"threads": 1, "cache_mb": 64, "precision": "f32"})
    await other.start(print)
    try:
        wanted = await texts(other)
        assert len(set(wanted)) > len(TALKS) // 2
        found = await texts(engine)
        different = [pair for pair in zip(found, wanted, strict=True) if pair[0] != pair[1]]
        assert not different, f"{len(different)} of {len(TALKS)} differ: {different[:3]}"
    finally:
        await other.close()


async def test_its_codec_is_openvinos(engine: Engine) -> None:
    other = OpenVinoEngine(GGUF_FOLDER, {"threads": 1, "cache_mb": 16})
    await other.start(print)
    try:
        for talk in TALKS:
            text = engine.codec.render(talk.messages, tools=talk.tools or (), add_generation_prompt=False)
            assert text == other.codec.render(talk.messages, tools=talk.tools or (), add_generation_prompt=False)
            tokens = engine.codec.encode(text)
            assert tokens == other.codec.encode(text)
            assert engine.codec.decode(tokens) == other.codec.decode(tokens)
        assert engine.codec.encode("") == []
        assert engine.codec.decode([]) == ""
        smile = engine.codec.encode("🙂")
        assert engine.codec.decode(smile) == "🙂"
        assert engine.codec.decode(smile[:-1]).endswith("\ufffd")
    finally:
        await other.close()


async def test_its_codec_refuses_what_is_wrong(engine: Engine) -> None:
    with pytest.raises(InvalidArgument, match="half of a surrogate pair at character 1"):
        engine.codec.encode("a\ud800")
    with pytest.raises(InvalidArgument, match="outside of the vocabulary of 1024"):
        engine.codec.decode([5, 2000])
    with pytest.raises(InvalidArgument, match="`chat_template` cannot be a variable"):
        engine.codec.render([{"role": "user", "content": "x"}], options={"chat_template": "{{ 7 * 7 }}"})
    with pytest.raises(InvalidArgument, match="template refuses the messages"):
        engine.codec.render([{"content": {"role": 1}}], tools=[{"no": "function"}])


async def test_it_gives_the_likeliest_tokens_with_the_chosen_one(engine: Engine) -> None:
    events = [event async for event in submit(engine, max_tokens=5, logprobs=True, top_logprobs=3)]
    assert [len(row) for event in events for row in event.top_logprobs] == [3] * 5
    for event in events:
        for token, score, row in zip(event.tokens, event.logprobs, event.top_logprobs, strict=True):
            assert row[token] == score == max(row.values())  # greedy: the chosen one is the likeliest
    sampled = [event async for event in submit(engine, max_tokens=20, logprobs=True, top_logprobs=1, temperature=2.0)]
    assert [len(row) for event in sampled for row in event.top_logprobs] == [1] * 20


async def test_biases_forbid_and_force_tokens(engine: Engine) -> None:
    free = await answer(engine, max_tokens=8)
    assert free[0] not in await answer(engine, max_tokens=8, logit_bias={free[0]: -100.0})
    assert await answer(engine, max_tokens=8, logit_bias={77: 100.0}) == [77] * 8
    with pytest.raises(InvalidArgument, match=r"refuses the request: .*logit_bias"):
        await answer(engine, logit_bias={10**6: 1.0})


async def test_it_says_what_of_a_prompt_was_there_already(engine: Engine) -> None:
    prompt = [100 + number * 7 % 800 for number in range(1500)]
    first = [event async for event in submit(engine, prompt, max_tokens=2)]
    again = [event async for event in submit(engine, [*prompt[:1400], 5], max_tokens=2)]
    assert first[0].cached == 0
    assert 1200 <= again[0].cached <= 1400


async def test_a_cancelled_generation_is_computed_no_further(engine: Engine) -> None:
    """Its place is free at once: else a hundred of 1500 tokens would be before the next answer."""
    generations = [submit(engine, max_tokens=1500) for _ in range(100)]
    await started_tokens(generations[0], 1)
    for generation in generations:
        generation.cancel()
    begin = asyncio.get_running_loop().time()
    await answer(engine, max_tokens=2)
    assert asyncio.get_running_loop().time() - begin < 30
    assert (engine.load().running, engine.load().waiting) == (0, 0)


async def test_smaller_priorities_go_first(folder: Path) -> None:
    """An engine of its own, where two run at a time; it is closed with requests on their way."""
    told: list[str] = []
    made = VllmEngine(folder, {**_options(), "max_num_seqs": 1, "max_model_len": 512})
    with pytest.raises(FailedPrecondition, match="not started"):
        _ = made.capabilities
    await made.start(told.append)
    try:
        assert told[-1] == "ready: 512 tokens of context"
        running = submit(made, max_tokens=400)
        await started_tokens(running, 1)
        order: list[int] = []

        async def one(priority: int) -> None:
            await all_of(submit(made, max_tokens=2, priority=priority))
            order.append(priority)

        tasks = [asyncio.create_task(one(priority)) for priority in (3, 1, 2, 0)]
        await asyncio.gather(*tasks)
        assert order == [0, 1, 2, 3]
        with pytest.raises(FailedPrecondition, match="started before"):
            await made.start(print)
        left = [submit(made, max_tokens=400) for _ in range(3)]
        await started_tokens(left[0], 1)
    finally:
        await made.close()
        await made.close()
    for generation in left:
        with pytest.raises(Unavailable, match="closed"):
            await all_of(generation)
    with pytest.raises(Unavailable, match="closed"):
        submit(made, PROMPT)


async def test_a_model_that_vllm_cannot_run_is_refused(folder: Path, tmp_path: Path) -> None:
    broken = _other_architecture(folder, tmp_path / "broken")
    made = VllmEngine(broken, _options())
    with pytest.raises(FailedPrecondition, match=r"vLLM cannot run the model .*NoSuchModel"):
        await made.start(print)
    await made.close()


def _other_architecture(folder: Path, copy: Path) -> Path:
    shutil.copytree(folder, copy)
    config = copy / "config.json"
    config.write_text(config.read_text().replace("LlamaForCausalLM", "NoSuchModel"))
    return copy


def _options() -> dict[str, object]:
    return {"dtype": "float32", "kv_cache_memory_bytes": 64 << 20, "enforce_eager": True}
