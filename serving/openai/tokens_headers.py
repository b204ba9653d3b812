"""Headers of answers of ours that say what a prompt was, for those who pass streams on and cannot wait for `usage`."""

from __future__ import annotations

from typing import Final

PROMPT_TOKENS: Final = "x-mesh-prompt-tokens"
CACHED_TOKENS: Final = "x-mesh-cached-tokens"  # of them: keys and values were there already; left out: not known


def token_headers(prompt: int, cached: int) -> dict[str, str]:
    """`cached` below 0: the engine does not say."""
    known = {CACHED_TOKENS: str(cached)} if cached >= 0 else {}
    return {PROMPT_TOKENS: str(prompt), **known}
