"""What a language model's replica says of its paths."""

from __future__ import annotations

from serving.openai.chat import ChatCompletionRequest
from serving.openai.chat_answers import ChatCompletion, ChatCompletionChunk
from serving.openai.completions import Completion, CompletionRequest
from serving.openai.response_objects import ResponseEvent, ResponseObject
from serving.openai.responses import ResponseRequest
from serving.openai.tokens import DetokenizeAnswer, DetokenizeRequest, TokenizeAnswer, TokenizeRequest
from serving.openai_http.openapi import Described


def described_routes() -> list[Described]:
    return [
        Described(
            "/v1/chat/completions",
            "chat.completions",
            "The next message of a chat",
            ChatCompletionRequest,
            ChatCompletion,
            ChatCompletionChunk,
        ),
        Described("/v1/completions", "completions", "What follows a text", CompletionRequest, Completion, Completion),
        Described(
            "/v1/responses",
            "responses",
            "The next answer, in the words of the Responses API",
            ResponseRequest,
            ResponseObject,
            ResponseEvent,
        ),
        Described("/tokenize", "tokenize", "Text or chat to tokens", TokenizeRequest, TokenizeAnswer),
        Described("/detokenize", "detokenize", "Tokens to text", DetokenizeRequest, DetokenizeAnswer),
    ]
