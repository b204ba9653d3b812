"""Tells a gateway that asks what an answer cost."""

from __future__ import annotations

from typing import Final

from serving.openai.usage import Usage
from serving.openai.usage_report import HEADER, REPORT, comment, header_text
from serving.wire import Wire

_HEADER: Final = HEADER.encode()


def add_usage_header(wire: Wire, usage: Usage) -> None:
    """To an answer that is whole, before it begins."""
    if wire.header(_HEADER) == REPORT:
        wire.add_header(HEADER, header_text(usage))


def usage_comment(wire: Wire, usage: Usage) -> bytes:
    """For the end of a stream; nothing where nobody asked."""
    return comment(usage) if wire.header(_HEADER) == REPORT else b""
