"""Tables for people, JSON for machines."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any, Final

import click

_COLOURS: Final = {
    "READY": "green",
    "ready": "green",
    "yes": "green",
    "ok": "green",
    "STARTING": "yellow",
    "UPDATING": "yellow",
    "PENDING": "yellow",
    "DEGRADED": "yellow",
    "DRAINING": "yellow",
    "draining": "yellow",
    "warning": "yellow",
    "DELETING": "yellow",
    "FAILED": "red",
    "UNHEALTHY": "red",
    "failed": "red",
    "no": "red",
}
MIN_LAST_COLUMN: Final = 24


def print_json(value: object) -> None:
    """One JSON document; several are one per line."""
    click.echo(json.dumps(value, ensure_ascii=False, default=str))


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Aligned columns. On a terminal the last column is folded into what is left of the width, else nothing is cut."""
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(_width(cell) for cell in column) for column in zip(headers, *texts, strict=True)]
    lines = [_line(headers, widths)]
    room = _room(widths)
    for row in texts:
        folded = _fold(row[-1], room)
        lines.append(_line([*row[:-1], folded[0]], widths, coloured=True))
        indent = " " * (sum(widths[:-1]) + 2 * (len(widths) - 1))
        lines += [indent + more for more in folded[1:]]
    return "\n".join(lines)


def coloured(word: str) -> str:
    """The word in the colour of its meaning (left out where output is no terminal)."""
    colour = _COLOURS.get(word)
    return click.style(word, fg=colour) if colour and sys.stdout.isatty() else word


def ago(unix_s: float, now_s: float) -> str:
    """`12s ago`, `3m ago`, `5h ago`, `2d ago`; "-" for never."""
    if unix_s <= 0:
        return "-"
    seconds = max(0, int(now_s - unix_s))
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "m"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds // size}{unit} ago"
    return f"{seconds // 86_400}d ago"


def iso(stamp: Any) -> str | None:
    """A protobuf timestamp as ISO 8601 in UTC; None when it is not set."""
    if not stamp.seconds and not stamp.nanos:
        return None
    moment = datetime.fromtimestamp(stamp.seconds + stamp.nanos / 1e9, timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _line(cells: Sequence[str], widths: Sequence[int], *, coloured: bool = False) -> str:
    shown = []
    for cell, width in zip(cells, widths, strict=True):
        space = " " * (width - _width(cell))
        shown.append((globals()["coloured"](cell) if coloured else cell) + space)
    return "  ".join(shown).rstrip()


def _room(widths: Sequence[int]) -> int:
    if not sys.stdout.isatty():
        return 0
    total = shutil.get_terminal_size().columns
    return max(MIN_LAST_COLUMN, total - sum(widths[:-1]) - 2 * (len(widths) - 1))


def _fold(text: str, room: int) -> list[str]:
    if not room or _width(text) <= room:
        return [text]
    return textwrap.wrap(text, room) or [""]


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def gateway_lines(http: str, grpc: str) -> list[str]:
    """Where clients that cannot follow discovery send their requests; host:port of each gateway, "" for none."""
    lines = []
    if http:
        lines += [f"OpenAI clients: base_url http://{http}/v1"]
    if grpc:
        lines += [f"KServe gRPC clients: {grpc}"]
    return lines


def gateway_shape(http: str, grpc: str) -> dict[str, str | None]:
    """The same for machines."""
    return {"gateway": f"http://{http}" if http else None, "gateway_grpc": grpc or None}
