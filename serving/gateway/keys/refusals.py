"""What clients are told that may not ask, in OpenAI's words."""

from __future__ import annotations

import math
from typing import Final

from serving.access.ledger import LimitReached
from serving.access.meter import Counter
from serving.access.windows import CONCURRENT_REQUESTS, Period
from serving.errors import PermissionDenied, ResourceExhausted, Unauthenticated

_WORDS: Final = {
    Period.MINUTE: "a minute",
    Period.DAY: "a day",
    Period.MONTH: "a month",
    Period.TOTAL: "in all",
    Period.HELD: "at a time",
}


class InvalidApiKey(Unauthenticated):
    """No key, or one that does not count. The text says no more than the client knows."""

    error_code = "invalid_api_key"


class ModelNotAllowed(PermissionDenied):
    param = "model"
    error_code = "model_not_allowed"

    def __init__(self, model: str) -> None:
        super().__init__(f"this API key may not ask the model `{model}`; ask for one of /v1/models")


class LimitRefusal(ResourceExhausted):
    """`retry_after_s` None: trying again cannot help, or not for as long as anybody waits."""

    def __init__(self, message: str, error_code: str, retry_after_s: int | None) -> None:
        super().__init__(message)
        self.error_code = error_code
        self.retry_after_s = retry_after_s


def refusal_of(error: LimitReached, now: float) -> LimitRefusal:
    """The answer to a request that finds no place."""
    counter = error.counter
    what = "tokens" if counter.counts_tokens else "requests"
    limit = f"{counter.limit} {what} {_WORDS[counter.period]}"
    if error.too_large:
        text = f"this request may need {error.amount} tokens, this API key has {limit}; ask for a shorter answer"
        return LimitRefusal(text, "rate_limit_exceeded", None)
    if counter.period.is_budget:
        text = f"this API key has used up its budget of {limit}"
        return LimitRefusal(text, "insufficient_quota", _until(counter, now))
    after = 1 if counter.name == CONCURRENT_REQUESTS else _until(counter, now)
    return LimitRefusal(f"this API key has reached its limit of {limit}", "rate_limit_exceeded", after)


def _until(counter: Counter, now: float) -> int | None:
    """Seconds to the next window, at least 1."""
    if math.isinf(counter.window.ends_at):
        return None
    return max(1, math.ceil(counter.window.ends_at - now))
