"""Texts that tokenizers can read."""

from __future__ import annotations

from serving.errors import InvalidArgument


def check_unicode(text: str) -> None:
    """Raises `InvalidArgument` for text that is not Unicode: JSON can bring a lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"the text holds half of a surrogate pair at character {error.start}") from error
