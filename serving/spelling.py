"""What somebody probably meant by a misspelt word. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def closest_match(word: str, allowed: Iterable[str]) -> str:
    """The allowed word most like `word`, or "" when none is near."""
    words = list(allowed)
    matches = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    if not matches and len(word) >= 3:
        matches = [known for known in words if known.startswith(word)]
    return matches[0] if len(matches) == 1 else ""
