"""Asks the GGUF file through OpenVINO GenAI, greedily, what training has not seen, and counts right answers by kind."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from examples.chat.training import conversations, grammar
from examples.chat.training.conversations import Conversation
from examples.openvino_quietly import without_telemetry

CACHE_GB: Final = 1
LONGEST_ANSWER: Final = 700  # tokens; no answer of the grammar is longer
_AT_ONCE: Final = 32
_SEED: Final = 23

Report = Callable[[str], None]


@dataclass
class Score:
    asked: Counter[str] = field(default_factory=Counter)
    right: Counter[str] = field(default_factory=Counter)
    wrong: list[tuple[Conversation, str]] = field(default_factory=list)

    def lines(self) -> list[str]:
        """A table of right and asked by kind, and the sum."""
        rows = [f"{kind:<12} {self.right[kind]:>5} / {self.asked[kind]}" for kind in sorted(self.asked)]
        return [*rows, f"{'all':<12} {self.right.total():>5} / {self.asked.total()}"]


class ChatPipeline:
    """The model as the mesh runs it: continuous batching on the CPU."""

    def __init__(self, model: Path) -> None:
        without_telemetry()
        import openvino_genai  # after telemetry is off

        self._genai = openvino_genai
        cache = openvino_genai.SchedulerConfig()
        cache.cache_size = CACHE_GB
        cache.enable_prefix_caching = True
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(str(model), cache, "CPU")
        self._tokenizer = self._pipeline.get_tokenizer()

    def prompt(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> str:
        text: str = self._tokenizer.apply_chat_template(messages, True, tools=tools)
        return text

    @property
    def chat_template(self) -> str:
        template: str = self._tokenizer.chat_template
        return template

    def answers(self, prompts: list[str], longest: int = LONGEST_ANSWER) -> list[str]:
        """The likeliest answers, without special tokens."""
        config = self._genai.GenerationConfig()
        config.max_new_tokens = longest
        config.do_sample = False
        config.apply_chat_template = False
        return [result.m_generation_ids[0] for result in self._pipeline.generate(prompts, [config] * len(prompts))]


def expected(talk: Conversation) -> str:
    """The text of the last answer: what the template makes of it."""
    last = talk.messages[-1]
    if last["content"] is not None:
        return str(last["content"])
    calls = (call["function"] for call in last["tool_calls"])
    return "".join(
        f'<tool_call>{{"name": "{call["name"]}", "arguments": {call["arguments"]}}}</tool_call>' for call in calls
    )


def held_out(per_kind: int) -> list[Conversation]:
    """For each kind of question and each shape of conversation, this many that were not trained on."""
    rng = random.Random(_SEED)
    talks = [conversations.draw_single(rng, "held_out", kind) for kind in grammar.KINDS for _ in range(per_kind)]
    for shape in conversations.SHAPES:
        talks += [conversations.draw(rng, "held_out", shape) for _ in range(per_kind)]
    return talks


def evaluate(model: Path, per_kind: int, report: Report = print) -> Score:
    """Reports its progress. A wrong answer is kept with its conversation."""
    pipeline, score, talks = ChatPipeline(model), Score(), held_out(per_kind)
    for begin in range(0, len(talks), _AT_ONCE):
        some = talks[begin : begin + _AT_ONCE]
        prompts = [pipeline.prompt(talk.messages[:-1], talk.tools) for talk in some]
        for talk, answer in zip(some, pipeline.answers(prompts), strict=True):
            score.asked[talk.kind] += 1
            if answer == expected(talk):
                score.right[talk.kind] += 1
            else:
                score.wrong.append((talk, answer))
        report(f"asked {begin + len(some)}/{len(talks)}, {len(score.wrong)} wrong")
    return score
