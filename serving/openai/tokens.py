"""`POST /tokenize` and `POST /detokenize`, as vLLM has them: extensions of the protocol.

Source: https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html#tokenizer-api.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator
from typing_extensions import TypedDict

from serving.openai.checked import RequestModel
from serving.openai.completions import MAX_TOKENS, TokenId
from serving.openai.messages import Messages
from serving.openai.tools import MAX_TOOLS, Tool


class TokenizeRequest(RequestModel):
    """A `prompt`, or the `messages` of a chat, which the model's template renders."""

    model: str | None = None
    prompt: str | None = None
    messages: Messages | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    add_special_tokens: bool = True
    add_generation_prompt: bool = True
    return_token_strs: bool = False
    chat_template_kwargs: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _one(self) -> TokenizeRequest:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("either `prompt` or `messages` must be given")
        return self


class TokenizeAnswer(TypedDict):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizeRequest(RequestModel):
    model: str | None = None
    tokens: Annotated[list[TokenId], Field(max_length=MAX_TOKENS, fail_fast=True)]


class DetokenizeAnswer(TypedDict):
    prompt: str
