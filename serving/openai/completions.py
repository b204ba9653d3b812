"""`POST /v1/completions`: the older protocol, from a text or tokens to what follows them.

Source: https://platform.openai.com/docs/api-reference/completions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import Field
from typing_extensions import NotRequired, TypedDict

from serving.openai.chat import Metadata, check_stream_options
from serving.openai.checked import checked
from serving.openai.errors import InvalidRequest
from serving.openai.json_body import MAX_VALUES
from serving.openai.response_format import ResponseFormat
from serving.openai.sampling_fields import MAX_CHOICES, UNDONE_SAMPLING, SamplingFields
from serving.openai.service_tier import SERVICE_TIERS
from serving.openai.usage import Usage

DEFAULT_MAX_TOKENS: Final = 16
MAX_TOKENS: Final = MAX_VALUES  # of a prompt that is given as tokens
UNDONE_COMPLETIONS: Final[Mapping[str, Sequence[Any]]] = {
    **UNDONE_SAMPLING,
    "suffix": ("",),
    "store": (False,),
    "service_tier": SERVICE_TIERS,
}

TokenId = Annotated[int, Field(ge=0, lt=2**31)]
TokenIds = Annotated[list[TokenId], Field(min_length=1, max_length=MAX_TOKENS, fail_fast=True)]


class CompletionRequest(SamplingFields):
    """`prompt`: one text, several, the tokens of one, or of several. Each has `n` choices."""

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=MAX_CHOICES)]
        | TokenIds
        | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_CHOICES)]
    )
    max_tokens: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    best_of: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    response_format: ResponseFormat | None = None
    metadata: Metadata | None = None
    service_tier: str | None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [[token for token in self.prompt if isinstance(token, int)]]
        return [item for item in self.prompt if not isinstance(item, int)]


class CompletionLogprobs(TypedDict):
    """One item for each token. `text_offset` counts characters."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] | None
    text_offset: list[int]


class CompletionChoice(TypedDict):
    """`finish_reason` is null in all pieces of a stream but the last of its choice."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length", "content_filter"] | None


class Completion(TypedDict):
    """The answer and, without `usage` unless it is asked for, each piece of a stream."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    system_fingerprint: str
    usage: NotRequired[Usage | None]


def read_completion(body: Mapping[str, Any]) -> CompletionRequest:
    """Raises `InvalidRequest` for fields that are wrong, that contradict each other, or that nothing here follows."""
    request = checked(CompletionRequest, body, UNDONE_COMPLETIONS)
    check_stream_options(request)
    choices = request.n or 1
    if request.best_of not in (None, choices):
        raise InvalidRequest(
            f"`best_of` must equal `n` ({choices}): answers are not ranked here",
            param="best_of",
            error_code="unsupported_value",
        )
    if len(request.prompts) * choices > MAX_CHOICES:
        raise InvalidRequest(
            f"{len(request.prompts)} prompts with `n` {choices} are more than {MAX_CHOICES} choices",
            param="n",
            error_code="invalid_value",
        )
    if request.echo and request.logprobs is not None:
        raise InvalidRequest(
            "`echo` with `logprobs` is not supported here: prompts have no log probabilities",
            param="echo",
            error_code="unsupported_parameter",
        )
    return request
