"""`POST /v1/embeddings`.

Source: https://platform.openai.com/docs/api-reference/embeddings.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from typing_extensions import TypedDict

from serving.openai.checked import RequestModel
from serving.openai.completions import MAX_TOKENS, TokenIds

MAX_INPUTS = 2048


def _few_enough(value: Any) -> Any:
    """Looked at before any of them, and said before what is wrong with one."""
    if isinstance(value, list) and value:
        tokens = isinstance(value[0], int)
        limit = MAX_TOKENS if tokens else MAX_INPUTS
        if len(value) > limit:
            raise ValueError(f"should have at most {limit} {'tokens' if tokens else 'inputs'}, not {len(value)}")
    return value


class EmbeddingRequest(RequestModel):
    """`input`: one text, several, the tokens of one, or of several. `dimensions` is what vectors are to have.

    `truncate` is an extension, as Text Embeddings Inference has it: the end of a text that is too long is left out.
    """

    model: Annotated[str, Field(min_length=1)]
    input: Annotated[
        Annotated[str, Field(min_length=1)]
        | Annotated[
            list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=MAX_INPUTS, fail_fast=True)
        ]
        | TokenIds
        | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_INPUTS, fail_fast=True)],
        BeforeValidator(_few_enough),
    ]
    dimensions: Annotated[int, Field(ge=1)] | None = None
    encoding_format: Literal["float", "base64"] | None = None
    user: str | None = None
    truncate: bool | None = None

    @property
    def inputs(self) -> list[str | list[int]]:
        if isinstance(self.input, str):
            return [self.input]
        if isinstance(self.input[0], int):
            return [[token for token in self.input if isinstance(token, int)]]
        return [item for item in self.input if not isinstance(item, int)]


class Embedding(TypedDict):
    """`embedding` as base64 is the little-endian bytes of its 32-bit floats."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(TypedDict):
    prompt_tokens: int
    total_tokens: int


class EmbeddingList(TypedDict):
    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage
