"""Errors of engines' libraries as parts of sentences."""

from __future__ import annotations

import re
from typing import Final

UNREADABLE: Final = "its message is no UTF-8"
_PLACES: Final = re.compile(r"(Exception from |(Check '.*' )?failed at |\[[\d:]+\] )?\S*/\S+:\d+:")


def one_line(error: BaseException) -> str:
    """What it says (at most 400 characters), without the places in its library's sources."""
    if isinstance(error, UnicodeDecodeError):  # what cuts a text of the client in the middle of a character
        return UNREADABLE
    text = " ".join(_PLACES.sub(" ", str(error)).split())
    return text[:400] or type(error).__name__
