"""How requests for a language model find a replica, as its deployment says. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from serving._proto import records_pb2 as pb
from serving.routing.policy import POWER_OF_TWO

PREFIX: Final = "prefix"
LEAST_TOKENS: Final = "least_tokens"
ROUND_ROBIN: Final = "round_robin"
LLM_CHOICES: Final = (PREFIX, LEAST_TOKENS, POWER_OF_TWO, ROUND_ROBIN)

SESSION_HEADER: Final = "x-mesh-session"
SESSION_KEYS: Final = (SESSION_HEADER, "prompt_cache_key", "user")
DEFAULT_SESSION_KEYS: Final = SESSION_KEYS[:2]

DEFAULT_OVERLOAD_TOKENS: Final = 8192
DEFAULT_ANSWER_WEIGHT: Final = 1.0


@dataclass(frozen=True, slots=True)
class LlmRouting:
    """What gateways are told.

    `choice` is one of `LLM_CHOICES`. `session_keys` are where a request says to which session it belongs, the first one
    that it has counts. A replica with more than `overload_tokens` beyond the least busy one gets no request for the
    sake of its prefixes or sessions. A token of an expected answer counts as `answer_weight` tokens of a prompt.
    """

    choice: str = PREFIX
    session_keys: tuple[str, ...] = DEFAULT_SESSION_KEYS
    overload_tokens: int = DEFAULT_OVERLOAD_TOKENS
    answer_weight: float = DEFAULT_ANSWER_WEIGHT

    @classmethod
    def from_record(cls, record: pb.LlmRouting) -> LlmRouting:
        """What a newer version says and this one does not know reads as the default."""
        keys = tuple(key for key in record.session_keys if key in SESSION_KEYS)
        return cls(
            choice=record.choice if record.choice in LLM_CHOICES else PREFIX,
            session_keys=keys or DEFAULT_SESSION_KEYS,
            overload_tokens=record.overload_tokens or DEFAULT_OVERLOAD_TOKENS,
            answer_weight=record.answer_weight if record.HasField("answer_weight") else DEFAULT_ANSWER_WEIGHT,
        )
