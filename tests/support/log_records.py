"""Our own records in a log to which others write too."""

from __future__ import annotations

import json
from typing import Any

START = '{"ts":"'


def log_records(text: str) -> list[dict[str, Any]]:
    """The whole records in `text`, wherever in a line they begin.

    A record is written in one piece, but others (Triton, the processes of its Python backend) write a line's text and
    its end apart, so that a record may stand between the two.
    """
    decoder = json.JSONDecoder()
    found: list[dict[str, Any]] = []
    at = text.find(START)
    while at >= 0:
        try:
            record, end = decoder.raw_decode(text, at)
        except json.JSONDecodeError:  # the last one, not written to its end yet
            break
        found.append(record)
        at = text.find(START, end)
    return found
