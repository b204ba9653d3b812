"""How many tokens a request may cost, before a tokenizer has seen it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_BYTES_A_TOKEN: Final = 4  # of usual text in usual vocabularies
_DEFAULT_ANSWER: Final = 256  # tokens that are reserved where a request sets no bound; the rest is entered afterwards
_BOUNDS: Final = ("max_completion_tokens", "max_tokens", "max_output_tokens")
_LARGEST: Final = 1 << 31


def prompt_tokens(body_bytes: int) -> int:
    """From the size of the whole body; at least 1."""
    return max(1, -(-body_bytes // _BYTES_A_TOKEN))


def answer_tokens(body: Mapping[str, Any], path: str) -> int:
    """What may be answered, of all choices together. Wrong values are the replica's to refuse: they count as none."""
    if path.endswith("/embeddings"):
        return 0
    bound = next((body[name] for name in _BOUNDS if _is_count(body.get(name))), _DEFAULT_ANSWER)
    choices = body["n"] if _is_count(body.get("n")) else 1
    return min(int(bound) * max(1, int(choices)), _LARGEST)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST
