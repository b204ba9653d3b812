"""What replicas and gateways answer, for their OpenAPI documents."""

from __future__ import annotations

from typing import Final

from typing_extensions import NotRequired, TypedDict

from serving.openai.chat import UNDONE_CHAT, ChatCompletionRequest
from serving.openai.chat_answers import ChatCompletion, ChatCompletionChunk
from serving.openai.completions import UNDONE_COMPLETIONS, Completion, CompletionRequest
from serving.openai.embeddings import EmbeddingList, EmbeddingRequest
from serving.openai.models import Model, ModelList
from serving.openai.openapi import Operation, Parameter
from serving.openai.response_objects import ResponseEvent, ResponseObject
from serving.openai.responses import UNDONE_RESPONSES, ResponseRequest
from serving.openai.tokens import DetokenizeAnswer, DetokenizeRequest, TokenizeAnswer, TokenizeRequest

_ALL: Final = (400, 404, 408, 413, 429, 500, 503, 504)
_HTML: Final = "text/html"


class Health(TypedDict):
    """`discovery_stale`, of a gateway: etcd is away, and it goes by its last view."""

    status: str
    discovery_stale: NotRequired[bool]


class Removed(TypedDict):
    """How many stored answers are gone."""

    removed: int


CHAT: Final = Operation(
    "/v1/chat/completions",
    "chat.completions",
    "The next message of a chat",
    ChatCompletionRequest,
    ChatCompletion,
    ChatCompletionChunk,
    errors=_ALL,
    undone=UNDONE_CHAT,
)
COMPLETIONS: Final = Operation(
    "/v1/completions",
    "completions",
    "What follows a text",
    CompletionRequest,
    Completion,
    Completion,
    errors=_ALL,
    undone=UNDONE_COMPLETIONS,
)
RESPONSES: Final = Operation(
    "/v1/responses",
    "responses",
    "The next answer, in the words of the Responses API",
    ResponseRequest,
    ResponseObject,
    ResponseEvent,
    errors=_ALL,
    undone=UNDONE_RESPONSES,
)
EMBEDDINGS: Final = Operation(
    "/v1/embeddings", "embeddings", "Texts to vectors", EmbeddingRequest, EmbeddingList, errors=_ALL
)
TOKENIZE: Final = Operation(
    "/tokenize", "tokenize", "Text or chat to tokens", TokenizeRequest, TokenizeAnswer, errors=_ALL
)
DETOKENIZE: Final = Operation(
    "/detokenize", "detokenize", "Tokens to text", DetokenizeRequest, DetokenizeAnswer, errors=_ALL
)
_DIGEST: Final = "^[0-9a-f]{64}$"
REMOVE_STORED: Final = Operation(
    "/v1/cache",
    "cache.remove",
    "Removes answers of yours that semantic caches keep: those that fit all that is given, and all where nothing is",
    answer=Removed,
    errors=(400, 404, 503),
    query=(
        Parameter("model", "Only those of this model."),
        Parameter("scope", "Only those that may be shared with an answer: its header `x-mesh-cache-scope`.", _DIGEST),
        Parameter("entry", "Only this one: the header `x-mesh-cache-entry` of an answer.", _DIGEST),
        Parameter("tag", "Only those whose requests had it among their `x-mesh-cache-tags`."),
    ),
    asked="delete",
)
OPERATIONAL: Final = (
    Operation("/v1/models", "models", "The models that are served here", answer=ModelList),
    Operation("/v1/models/{model}", "model", "One model", answer=Model, errors=(400, 404)),
    Operation("/health", "health", "200 while requests are taken, 503 otherwise", answer=Health),
    Operation("/metrics", "metrics", "Numbers in Prometheus' text format", media_type="text/plain"),
    Operation("/docs", "docs", "This document as a page", media_type=_HTML),
)
LANGUAGE_MODEL: Final = (CHAT, COMPLETIONS, RESPONSES, TOKENIZE, DETOKENIZE)
GATEWAY: Final = (CHAT, COMPLETIONS, EMBEDDINGS, REMOVE_STORED, *OPERATIONAL)  # and what waits there
