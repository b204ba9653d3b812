"""The vLLM engine over a scripted `AsyncLLM`: what it is asked for, and what becomes of its answers and errors.

That vLLM itself takes and answers this is what tests/vllm shows (`make test-vllm`).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from serving.errors import FailedPrecondition, Internal, InvalidArgument, Unavailable
from serving.llm import vllm_engine
from serving.llm.engine import EngineLoad, GenerationRequest, Guide, Sampling, TokenEvent
from serving.llm.vllm_engine import VllmEngine
from serving.llm.vllm_package import VllmPackage
from tests.support.generations import all_of, submit
from tests.support.waiting import eventually_async


class Refused(Exception):
    pass


class Dead(Exception):
    pass


class Kind(Enum):
    DELTA = 1


class Params(SimpleNamespace):
    def verify(self, *_: object) -> None:
        if self.structured_outputs.regex == "wrong":
            raise Refused("it is wrong")


class Tokenizer:
    chat_template = "{{ messages }}"

    def __len__(self) -> int:
        return 1000

    def apply_chat_template(self, messages: list[dict[str, str]], tokenize: bool = True, **variables: Any) -> str:
        assert not tokenize
        return f"{messages[0]['content']} {variables['mood']}"

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        return [int(add_special_tokens), *map(ord, text)]

    def decode(self, tokens: list[int], skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        return "".join(map(chr, tokens))


def out(tokens: list[int], finish: str | None = None, cached: int | None = 0, logprobs: Any = None) -> Any:
    return SimpleNamespace(
        num_cached_tokens=cached,
        outputs=[SimpleNamespace(token_ids=tokens, finish_reason=finish, logprobs=logprobs)],
    )


class Llm:
    """`script`: outputs, and errors that are raised in their place. None: waits until it is cancelled."""

    loading: threading.Event | None = None
    script: ClassVar[list[Any]] = []
    made: ClassVar[list[Llm]] = []

    def __init__(self, arguments: Any, logger: Any) -> None:
        self.arguments, self.logger = arguments, logger
        self.errored = self.shut = False
        self.asked: list[tuple[Any, Any, str, int]] = []
        self.aborted = 0
        config = SimpleNamespace(max_model_len=100, get_vocab_size=lambda: 1024)
        self.vllm_config = SimpleNamespace(
            model_config=config,
            cache_config=SimpleNamespace(enable_prefix_caching=True, kv_cache_size_tokens=4096),
            scheduler_config=SimpleNamespace(max_num_seqs=24),
            speculative_config=None,
            structured_outputs_config=None,
        )
        Llm.made.append(self)

    @classmethod
    def from_engine_args(cls, arguments: Any, stat_loggers: list[Any]) -> Llm:
        if cls.loading is not None:
            assert cls.loading.wait(60)
        if arguments["dtype"] == "float16":
            raise ValueError("this device\n has no float16")
        return cls(arguments, stat_loggers[0](None, 0))

    def get_tokenizer(self) -> Tokenizer:
        return Tokenizer()

    async def generate(self, prompt: Any, params: Any, name: str, *, priority: int) -> AsyncIterator[Any]:
        self.asked.append((prompt, params, name, priority))
        try:
            for step in self.script:
                await asyncio.sleep(0)
                if step is None:
                    await asyncio.Event().wait()
                if isinstance(step, Exception):
                    raise step
                yield step
        except (asyncio.CancelledError, GeneratorExit):
            self.aborted += 1
            raise

    def shutdown(self) -> None:
        self.shut = True


@pytest.fixture(autouse=True)
def package(monkeypatch: pytest.MonkeyPatch) -> None:
    def made(**values: Any) -> Params:
        if values.get("repetition_penalty", 1) < 0:
            raise Refused("repetition_penalty must be greater than zero")
        return Params(**values)

    scripted = VllmPackage(
        version="0.0",
        AsyncLLM=Llm,
        AsyncEngineArgs=dict,
        SamplingParams=made,
        StructuredOutputsParams=lambda regex=None, **_: SimpleNamespace(regex=regex),
        RequestOutputKind=Kind,
        client_errors=(Refused,),
        dead_error=Dead,
        xgrammar=None,
    )
    monkeypatch.setattr(vllm_engine, "import_vllm", lambda: scripted)
    monkeypatch.setattr(vllm_engine, "check_folder", lambda _: None)
    monkeypatch.setattr(Llm, "script", [out([5, 6]), out([7], "stop")])
    monkeypatch.setattr(Llm, "made", [])
    monkeypatch.setattr(Llm, "loading", None)


@pytest.fixture
async def engine() -> AsyncIterator[VllmEngine]:
    made = VllmEngine(Path("/model"))
    await made.start(lambda _: None)
    yield made
    await made.close()
    assert Llm.made[0].shut


async def test_it_says_what_it_can(engine: VllmEngine) -> None:
    can = engine.capabilities
    assert (can.engine, can.context_tokens, can.cache_tokens, can.top_logprobs) == ("vllm 0.0", 100, 4096, 20)
    assert can.at_once == 24
    assert (can.logit_bias, can.priorities, can.prefix_cache, can.chat, can.resumes) == (True, True, True, True, False)
    with pytest.raises(InvalidArgument, match="cannot continue an answer"):
        engine.submit(GenerationRequest("test", [1], Sampling(max_tokens=5), told=[2]))


async def test_a_request_becomes_vllms_parameters(engine: VllmEngine) -> None:
    asked = {"max_tokens": 500, "min_tokens": 600, "seed": -1, "guide": Guide("regex", "a")}
    await all_of(submit(engine, [1, 2], priority=3, **asked))
    (prompt, params, name, priority), *_ = Llm.made[0].asked
    assert (prompt, priority) == ({"type": "token", "prompt_token_ids": [1, 2]}, 3)
    assert name.startswith("test-")
    assert (params.max_tokens, params.min_tokens, params.temperature, params.ignore_eos) == (98, 98, 0.0, True)
    assert 0 <= params.seed < 2**32  # -1 would be none for vLLM
    assert (params.logprobs, params.logit_bias, params.detokenize, params.output_kind) == (
        None,
        None,
        False,
        Kind.DELTA,
    )
    assert params.structured_outputs.regex == "a"


async def test_outputs_become_events(engine: VllmEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def score(value: float, rank: int) -> Any:
        return SimpleNamespace(logprob=value, rank=rank)

    rows = [{5: score(-2.0, 40), 8: score(-0.1, 1), 9: score(-0.5, 2)}]
    script = [out([], cached=None), out([5], cached=64, logprobs=rows), out([7], "length", None)]
    monkeypatch.setattr(Llm, "script", script)
    assert [event async for event in submit(engine, logprobs=True, top_logprobs=2)] == [
        TokenEvent((5,), (-2.0,), ({8: -0.1, 9: -0.5},), None, 64),
        TokenEvent((7,), (), (), "length", -1),
    ]
    assert Llm.made[0].aborted == 0  # a generation that ended is not taken back


@pytest.mark.parametrize(
    ("step", "kind", "message"),
    [
        (Refused("logit_bias holds\n 9999"), InvalidArgument, "refuses the request: logit_bias holds 9999"),
        (Dead(), Internal, "vLLM's process has ended"),
        (OSError("broken"), Internal, "the engine failed: broken"),
        (out([], "abort"), Unavailable, "gave the generation up"),
        (out([], "error"), Internal, "ended the generation with 'error'"),
        (out([3]), Internal, "without saying why"),
    ],
)
async def test_errors_are_told(
    engine: VllmEngine, monkeypatch: pytest.MonkeyPatch, step: Any, kind: type[Exception], message: str
) -> None:
    monkeypatch.setattr(Llm, "script", [step])
    with pytest.raises(kind, match=message):
        await all_of(submit(engine))
    assert engine.load() == EngineLoad()


async def test_a_dead_engine_says_so_and_takes_nothing(engine: VllmEngine) -> None:
    assert engine.failure == ""
    Llm.made[0].errored = True
    assert "process has ended" in engine.failure
    with pytest.raises(Unavailable, match="process has ended"):
        submit(engine)


async def test_what_is_cancelled_is_taken_back_and_counts_no_more(
    engine: VllmEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Llm, "script", [out([1]), None])
    llm = Llm.made[0]
    begun, fresh = submit(engine), submit(engine)
    assert (await begun.__anext__()).tokens == (1,)
    llm.logger.record(SimpleNamespace(num_running_reqs=1, kv_cache_usage=0.25), None)
    assert engine.load() == EngineLoad(1, 1, 0.25)
    begun.cancel()
    fresh.cancel()
    at_once = submit(engine)
    at_once.cancel()
    assert engine.load() == EngineLoad()
    assert [await all_of(each) for each in (begun, at_once)] == [([], None)] * 2
    await eventually_async(lambda: llm.aborted == 2, what="vLLM hears of both")
    assert len(llm.asked) == 2  # what was cancelled before it began was never asked for


async def test_a_guide_that_vllm_refuses_is_refused_by_name_and_remembered(engine: VllmEngine) -> None:
    for _ in range(2):
        with pytest.raises(InvalidArgument, match="cannot follow the guide: it is wrong"):
            engine.check(Guide("regex", "wrong"))
    with pytest.raises(InvalidArgument, match="cannot follow the guide: it is wrong"):
        submit(engine, guide=Guide("regex", "wrong"))
    with pytest.raises(InvalidArgument, match="no JSON value fits"):
        engine.check(Guide("json_schema", "false"))
    with pytest.raises(InvalidArgument, match="repetition_penalty must"):
        submit(engine, repetition_penalty=-1.0)


async def test_a_tokenizer_in_python_works_behind_a_lock(engine: VllmEngine) -> None:
    codec = engine.codec
    assert (codec.encode("ab"), codec.encode("a", special=True)) == ([0, 97, 98], [1, 97])
    assert codec.decode([97, 98]) == "ab"
    assert codec.render([{"role": "user", "content": "Hi"}], options={"mood": "merrily"}) == "Hi merrily"
    for name in ("tokenize", "messages"):
        with pytest.raises(InvalidArgument, match=f"`{name}` cannot be a variable"):
            codec.render([{"role": "user", "content": "Hi"}], options={name: 1})
    with pytest.raises(InvalidArgument, match="template refuses the messages: 'mood'"):
        codec.render([{"role": "user", "content": "Hi"}])


async def test_closing_while_it_loads_waits_for_it_and_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()
    monkeypatch.setattr(Llm, "loading", gate)
    engine = VllmEngine(Path("/model"))
    start = asyncio.create_task(engine.start(lambda _: None))
    await asyncio.sleep(0)
    close = asyncio.create_task(engine.close())
    start.cancel()
    await asyncio.sleep(0)
    gate.set()
    await close
    assert [llm.shut for llm in Llm.made] == [True]
    with pytest.raises(Unavailable, match="closed"):
        submit(engine)


async def test_closing_ends_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Llm, "script", [out([1]), None])
    engine = VllmEngine(Path("/model"))
    await engine.start(lambda _: None)
    with pytest.raises(FailedPrecondition, match="started before"):
        await engine.start(lambda _: None)
    generations = [submit(engine) for _ in range(3)]
    assert (await generations[0].__anext__()).tokens == (1,)
    await asyncio.gather(engine.close(), engine.close())
    for generation in generations:
        with pytest.raises(Unavailable, match="the engine was closed"):
            await all_of(generation)
    assert (Llm.made[0].aborted, engine.failure) == (3, "")


async def test_what_vllm_says_of_a_model_it_cannot_run_is_told() -> None:
    engine = VllmEngine(Path("/model"), {"dtype": "float16"})
    with pytest.raises(FailedPrecondition, match="cannot run the model /model: this device has no float16"):
        await engine.start(lambda _: None)
    with pytest.raises(FailedPrecondition, match="not started"):
        submit(engine)
    await engine.close()
