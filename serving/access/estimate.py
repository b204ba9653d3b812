"""How many tokens a request may cost, before a tokenizer has seen it. Pure."""

from __future__ import annotations

from typing import Final

_BYTES_A_TOKEN: Final = 4  # of usual text in usual vocabularies
_DEFAULT_ANSWER: Final = 256  # tokens that are reserved where a request sets no bound; the rest is entered afterwards


def prompt_tokens(body_bytes: int) -> int:
    """From the size of the whole body; at least 1."""
    return max(1, -(-body_bytes // _BYTES_A_TOKEN))


def answer_tokens(limit: int | None, choices: int) -> int:
    """What may be answered, of all choices together. `limit` is what the request allows each; None: not said."""
    return (_DEFAULT_ANSWER if limit is None else limit) * choices
