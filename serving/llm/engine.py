"""The one interface to engines: token ids and parameters in, token events out.

An engine belongs to the event loop on which it was started; what it computes runs elsewhere, so no method here blocks
that loop. Text is the engine's `TextCodec`'s business: an engine never sees any.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

from serving.errors import InvalidArgument

# Engines by the name that a spec gives them.
OPENVINO: Final = "openvino"
VLLM: Final = "vllm"

FinishReason = Literal["stop", "length"]
GuideKind = Literal["json_object", "json_schema", "regex", "grammar"]


@dataclass(frozen=True, slots=True)
class Guide:
    """What the text must be: `text` is a JSON schema, a regular expression or an EBNF; empty for any object."""

    kind: GuideKind
    text: str = ""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen. `temperature` 0 is greedy. Lists are token ids; 0 of `top_k` and `min_p` is off."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    min_tokens: int = 0
    ignore_eos: bool = False
    stop_token_ids: tuple[int, ...] = ()
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: bool = False
    top_logprobs: int = 0
    guide: Guide | None = None


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """`prompt` are the token ids of the whole prompt, at least one. `priority`: smaller goes first, where it counts.

    `told` are the first tokens of the answer, which another replica has told already: no event has them again, and
    they count as a part of `max_tokens`. `yields`: it is computed where others leave room, and is paused for them by
    engines that can do that. `whole`: nobody reads the answer before its end, so that events between
    the first and the last may come late, many at once.
    """

    id: str
    prompt: Sequence[int]
    sampling: Sampling
    priority: int = 0
    told: Sequence[int] = ()
    yields: bool = False
    whole: bool = False


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """Some new tokens. `logprobs` are natural logarithms, one for each token, or empty. The last event has `finish`.

    `cached` (tokens of the prompt whose keys and values were there already) is meant in the first event; -1: not known.
    """

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...] = ()
    top_logprobs: tuple[Mapping[int, float], ...] = ()
    finish: FinishReason | None = None
    cached: int = -1


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can do for this model. What it cannot is refused before it is submitted."""

    engine: str  # "openvino 2026.4.1"
    context_tokens: int  # prompt and answer together
    logprobs: bool = False
    top_logprobs: int = 0  # the most alternatives for each token
    logit_bias: bool = False
    priorities: bool = False
    guides: frozenset[GuideKind] = frozenset()
    chat: bool = True  # the model has a chat template
    prefix_cache: bool = False
    cache_tokens: int = 0  # whose keys and values it holds for all requests together, at most; 0: not known
    at_once: int = 0  # generations that it computes together, at most; 0: not known
    resumes: bool = False  # goes on behind `GenerationRequest.told`, or fails where its own answer begins otherwise


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """What the engine does now. `cache_usage` is the used share of its cache of keys and values, 0 to 1.

    `paused` of those that wait were begun, and gave way; `pauses` counts how often one did since the start.
    """

    running: int = 0
    waiting: int = 0
    cache_usage: float = 0.0
    paused: int = 0
    pauses: int = 0


class TextTooLong(InvalidArgument):
    """A text has more tokens than its tokenizer takes."""


class TextCodec(Protocol):
    """Text ↔ token ids of one model. Takes milliseconds for long texts; may be called from any thread."""

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """`special`: adds what the model wants at the beginning of a text (not used for rendered chats).

        Raises `TextTooLong`.
        """
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """Without special tokens. Half a character at the end reads as U+FFFD.

        Raises `InvalidArgument` for a token that the model does not have.
        """
        ...

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        add_generation_prompt: bool = True,
        options: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt of a chat by the model's own template. Raises `InvalidArgument` with what the template refuses."""
        ...


class Generation(Protocol):
    """One request on its way: an iterator of events. It ends after the event with `finish`.

    Raises `Internal` when the engine failed, `Unavailable` when it ended, `InvalidArgument` for a request that it found
    impossible, `Conflict` when its answer does not begin with what was told.
    """

    def __aiter__(self) -> AsyncIterator[TokenEvent]: ...

    async def __anext__(self) -> TokenEvent: ...

    def cancel(self) -> None:
        """No further token is computed from the next step on. May be repeated, and be called after the end."""
        ...


class Engine(Protocol):
    """In this order: `start`, any number of `submit`, `close`."""

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def codec(self) -> TextCodec: ...

    @property
    def failure(self) -> str:
        """Why it cannot go on; empty while it can."""
        ...

    async def start(self, tell: Callable[[str], None]) -> None:
        """Loads the model. `tell` hears what it does. Raises `FailedPrecondition` with what is wrong with the model."""
        ...

    def check(self, guide: Guide) -> None:
        """Raises `InvalidArgument` for a guide that it cannot follow, before it would harm other requests."""
        ...

    def submit(self, request: GenerationRequest) -> Generation:
        """Never waits. Raises `InvalidArgument` for a prompt longer than its cache, `Unavailable` when it has ended."""
        ...

    def load(self) -> EngineLoad: ...

    async def close(self) -> None:
        """Ends what runs with `Unavailable` and frees the model. May be repeated."""
        ...
