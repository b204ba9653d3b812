"""The tokenizer: byte-level BPE with Qwen 2's way of splitting, which GGUF knows by name (`PRE_TOKENIZER`).

Single digits are tokens of their own. What stands between `<|im_start|>` and `<|im_end|>` is ordinary text; so is
`<tool_call>`, because readers of GGUF files leave special tokens out of the text that they give back.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import jinja2
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from examples.chat.training import conversations
from examples.chat.training.conversations import Conversation

VOCABULARY: Final = 1024
END_OF_TEXT: Final = 0
START_OF_TURN: Final = 1
END_OF_TURN: Final = 2
SPECIAL: Final = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
PRE_TOKENIZER: Final = "qwen2"
_SPLIT: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SAMPLES: Final = 8000
_SEED: Final = 11
CHAT_TEMPLATE: Final = (Path(__file__).parent / "chat_template.jinja").read_text(encoding="utf-8")
_TEMPLATE: Final = jinja2.Environment(autoescape=False).from_string(CHAT_TEMPLATE)  # no HTML here


def render(talk: Conversation, messages: int, generate: bool) -> str:
    """The text of the first `messages` messages; with `generate`, up to where the assistant begins to speak."""
    return _TEMPLATE.render(messages=talk.messages[:messages], tools=talk.tools, add_generation_prompt=generate)


def around(model: models.BPE) -> Tokenizer:
    """The tokenizer with this vocabulary."""
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def train() -> Tokenizer:
    """The same vocabulary on every run."""
    tokenizer = around(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    return tokenizer


def _texts() -> Iterator[str]:
    """What the vocabulary is learnt from. The tags of tool calls stand apart, so that no token holds more than a tag's
    end: a prompt may force a call by ending with `<tool_call>`."""
    rng = random.Random(_SEED)
    for _ in range(_SAMPLES):
        talk = conversations.draw(rng, "train")
        for message in talk.messages:
            if message["content"] and message["role"] != "system":
                yield message["content"]
        if talk.tools:
            yield render(talk, len(talk.messages), generate=False).replace("_call>", "_call> ").replace("</", " </")


def encode(tokenizer: Tokenizer, talk: Conversation) -> tuple[list[int], list[bool]]:
    """The tokens of a conversation, and which of them the assistant has to say."""
    tokens: list[int] = []
    spoken: list[bool] = []
    done = 0
    whole = render(talk, len(talk.messages), generate=False)

    def take(end: int, by_assistant: bool) -> None:
        nonlocal done
        ids = tokenizer.encode(whole[done:end]).ids
        tokens.extend(ids)
        spoken.extend([by_assistant] * len(ids))
        done = end

    for index, message in enumerate(talk.messages):
        if message["role"] == "assistant":
            take(len(render(talk, index, generate=True)), by_assistant=False)
            take(len(render(talk, index + 1, generate=False)) - 1, by_assistant=True)  # its line ends after <|im_end|>
    return tokens, spoken
