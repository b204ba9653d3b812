"""Cuts the calls of tools out of what a model says, while it says it.

Format: `<tool_call>{"name": "f", "arguments": {...}}</tool_call>`, as Hermes models and many after them write it:
https://huggingface.co/NousResearch/Hermes-2-Pro-Llama-3-8B#prompt-format-for-function-calling.

A call is told as soon as its name is there and its arguments begin; from then on it is a call, also where the answer is
cut in the middle of the arguments. Whatever is no call of an offered function stays text, tags included.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final, Literal

OPEN: Final = "<tool_call>"
CLOSE: Final = "</tool_call>"
_HEAD: Final = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)')
_SPACE: Final = " \t\r\n"


@dataclass(frozen=True, slots=True)
class TextPiece:
    text: str


@dataclass(frozen=True, slots=True)
class CallPiece:
    """A piece of the call number `index`. The first piece has the `name`; `arguments` add up to JSON."""

    index: int
    name: str | None
    arguments: str


Piece = TextPiece | CallPiece


class ToolCallParser:
    """`push` text, `finish` once; what they give adds up to the same, however the text is cut.

    `inside`: the text begins within a call, as the prompt ended with its opening tag.
    """

    def __init__(self, names: Collection[str], *, inside: bool = False) -> None:
        self._names = frozenset(names)
        self._state: Literal["text", "head", "arguments", "tail"] = "head" if inside else "text"
        self._opened = "" if inside else OPEN  # what stands before the head, if it stays text
        self._rest = ""
        self._spoken = False  # whether there is text since the last call
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self.calls = 0
        self.closed = 0  # calls whose end was seen

    def push(self, text: str) -> list[Piece]:
        self._rest += text
        return self._run(final=False)

    def finish(self) -> list[Piece]:
        """What was held back."""
        return self._run(final=True)

    def _run(self, *, final: bool) -> list[Piece]:
        pieces: list[Piece] = []
        steps = {"text": self._text, "head": self._head, "arguments": self._arguments, "tail": self._tail}
        while steps[self._state](pieces, final):
            pass
        return pieces

    def _text(self, pieces: list[Piece], final: bool) -> bool:
        at = self._rest.find(OPEN)
        end = at if at >= 0 else len(self._rest) - (0 if final else _held(self._rest, OPEN))
        said = self._rest[:end]
        if not self._spoken and not said.strip(_SPACE):  # space before a call, and after the last one, is no content
            if at < 0:
                if final and not self.calls:
                    _say(pieces, said)
                return False
        else:
            _say(pieces, said)
            self._spoken, said = True, ""
        self._rest = self._rest[end:]
        if at < 0:
            return False
        self._rest = self._rest[len(OPEN) :]
        self._state, self._opened = "head", said + OPEN
        return True

    def _head(self, pieces: list[Piece], final: bool) -> bool:
        end = self._rest.find(CLOSE)
        found = _HEAD.match(self._rest, 0, end if end >= 0 else len(self._rest))
        if found is not None and (name := _name(found.group(1))) in self._names:
            pieces.append(CallPiece(self.calls, name, ""))
            self._rest = self._rest[found.end() :]
            self._state = "arguments"
            return True
        if end < 0 and not final:
            return False
        body = self._rest if end < 0 else self._rest[:end]
        self._rest = "" if end < 0 else self._rest[end + len(CLOSE) :]
        call = _whole(body)
        if call is not None and call[0] in self._names:
            pieces += [CallPiece(self.calls, call[0], ""), CallPiece(self.calls, None, call[1])]
            self.calls += 1
            self.closed += 1
        else:
            _say(pieces, self._opened + body + ("" if end < 0 else CLOSE))
        self._spoken = call is None or call[0] not in self._names
        self._state = "text"
        return bool(self._rest)

    def _arguments(self, pieces: list[Piece], final: bool) -> bool:
        """Up to the brace that closes the first one."""
        for at, character in enumerate(self._rest):
            if self._step(character):
                pieces.append(CallPiece(self.calls, None, self._rest[: at + 1]))
                self._rest = self._rest[at + 1 :]
                self.calls += 1
                self._state = "tail"
                return True
        if self._rest:
            pieces.append(CallPiece(self.calls, None, self._rest))
            self._rest = ""
        if final:
            self.calls += 1
            self._state = "tail"
        return False

    def _step(self, character: str) -> bool:
        """Whether the arguments end with this character."""
        if self._in_string:
            if self._escaped:
                self._escaped = False
            elif character == "\\":
                self._escaped = True
            elif character == '"':
                self._in_string = False
        elif character == '"':
            self._in_string = True
        elif character in "{[":
            self._depth += 1
        elif character in "}]":
            self._depth -= 1
            return self._depth == 0
        return False

    def _tail(self, _pieces: list[Piece], _final: bool) -> bool:
        """What follows the arguments within a call says nothing."""
        end = self._rest.find(CLOSE)
        if end < 0:
            held = _held(self._rest, CLOSE)
            self._rest = self._rest[len(self._rest) - held :]
            return False
        self._rest = self._rest[end + len(CLOSE) :]
        self.closed += 1
        self._state, self._spoken = "text", False
        return True


def _held(text: str, tag: str) -> int:
    """How many characters at the end may be the beginning of the tag."""
    for size in range(min(len(text), len(tag) - 1), 0, -1):
        if tag.startswith(text[-size:]):
            return size
    return 0


def _name(quoted: str) -> str:
    try:
        return str(json.loads(quoted))
    except ValueError:
        return ""


def _whole(body: str) -> tuple[str, str] | None:
    """Name and arguments of a call that is told in another order, or without arguments."""
    try:
        value: Any = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    arguments = value.get("arguments", value.get("parameters", {}))
    return (value["name"], json.dumps(arguments, ensure_ascii=False)) if isinstance(arguments, dict) else None


def _say(pieces: list[Piece], text: str) -> None:
    if not text:
        return
    if pieces and isinstance(pieces[-1], TextPiece):
        text = pieces.pop().text + text  # type: ignore[union-attr]
    pieces.append(TextPiece(text))
