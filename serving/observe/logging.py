"""Logs of every Python process: one JSON object per line, or coloured text for a terminal.

A record is constant text with keys: `log.info("lease lost", extra={"lease": "4f"})`, or through `get_logger`
`log.info("lease lost", lease="4f")`. The C++ processes write the same shape (`cpp_ext/common/log.h`).
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping, MutableMapping
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, TextIO
from weakref import WeakSet

from serving.control.controller import running_key
from serving.errors import FailedPrecondition, InvalidArgument

LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_LEVEL_NAMES: Final = {number: name for name, number in LEVELS.items()} | {logging.CRITICAL: "error"}
_PLAIN: Final = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime", "taskName", "mesh_fields"})
_RESERVED: Final = frozenset({"ts", "level", "msg", "logger", "error_trace"})
_MAX_TEXT: Final = 16_384  # of one value: a record must not become a dump

_installed: Final[WeakSet[logging.Handler]] = WeakSet()
_fields: ContextVar[Mapping[str, object]] = ContextVar("log_fields", default=MappingProxyType({}))


class log_fields:  # noqa: N801 - read as the verb that `with` makes of it
    """Adds keys to every record written in this context, and in tasks that are started in it."""

    __slots__ = ("_added", "_token")

    def __init__(self, **fields: object) -> None:
        self._added = fields

    def __enter__(self) -> None:
        self._token = _fields.set({**_fields.get(), **self._added})

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        _fields.reset(self._token)


if TYPE_CHECKING:
    _Adapter = logging.LoggerAdapter[logging.Logger]
else:
    _Adapter = logging.LoggerAdapter  # cannot be subscripted before Python 3.11


class MeshLogger(_Adapter):
    """Takes the keys of a record as keyword arguments."""

    def process(self, msg: object, kwargs: MutableMapping[str, Any]) -> tuple[object, MutableMapping[str, Any]]:
        known = {name: kwargs.pop(name) for name in ("exc_info", "stack_info", "stacklevel", "extra") if name in kwargs}
        fields = {**(known.pop("extra", None) or {}), **kwargs}
        return msg, {**known, "extra": {"mesh_fields": fields}}


def get_logger(name: str) -> MeshLogger:
    """A logger for `log.info("constant text", key=value)`."""
    return MeshLogger(logging.getLogger(name), {})


def record_fields(record: logging.LogRecord) -> dict[str, object]:
    """The keys of a record: those of its context, then its own.

    Attributes that begin with `_` are some library's bookkeeping (Ray's record factory adds one to every record).
    """
    own = {name: value for name, value in vars(record).items() if name not in _PLAIN and not name.startswith("_")}
    merged = {**_context(), **own, **getattr(record, "mesh_fields", {})}
    return {(f"{name}_" if name in _RESERVED else name): value for name, value in merged.items() if value is not None}


def _context() -> Mapping[str, object]:
    run = running_key.get()
    return {**_fields.get(), "run": run} if run else _fields.get()


def _plain(value: object) -> object:
    if isinstance(value, bool | int) or value is None:
        return value
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else str(value)
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + f"... ({len(text)} characters)"


def _timestamp(created_s: float) -> str:
    milliseconds = round(created_s * 1000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(milliseconds // 1000)) + f".{milliseconds % 1000:03d}Z"


class JsonFormatter(logging.Formatter):
    """`{"ts": ..., "level": ..., "msg": ..., <base keys>, <keys>, "logger": ..., "error_trace": ...}`, one line."""

    def __init__(self, base: Mapping[str, object] | None = None) -> None:
        super().__init__()
        self._base = dict(base or {})

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "ts": _timestamp(record.created),
            "level": _LEVEL_NAMES.get(record.levelno, "info"),
            "msg": record.getMessage(),
            **self._base,
            **record_fields(record),
            "logger": record.name,
        }
        if record.exc_info:
            line["error_trace"] = self.formatException(record.exc_info)
        return json.dumps(_plain(line), ensure_ascii=False, separators=(",", ":"))


class TextFormatter(logging.Formatter):
    """`18:55:09.123 WARNING lease lost  lease=4f  (serving.store.lease)`, coloured on a terminal."""

    _COLOURS: Final = {"debug": "\x1b[2m", "info": "", "warning": "\x1b[33m", "error": "\x1b[31m"}

    def __init__(self, *, colour: bool) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        level = _LEVEL_NAMES.get(record.levelno, "info")
        at = time.strftime("%H:%M:%S", time.localtime(record.created)) + f".{int(record.msecs):03d}"
        keys = "".join(f"  {name}={_shown(value)}" for name, value in record_fields(record).items())
        text = f"{at} {level.upper():<7} {record.getMessage()}{keys}  ({record.name})"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        colour = self._COLOURS[level] if self._colour else ""
        return f"{colour}{text}\x1b[0m" if colour else text


def _shown(value: object) -> str:
    plain = _plain(value)
    if isinstance(plain, str) and plain and " " not in plain and "\n" not in plain:
        return plain
    return json.dumps(plain, ensure_ascii=False)


def parse_level(text: str) -> int:
    """`debug`, `info`, `warning` or `error`; empty is `info`. Raises `InvalidArgument`."""
    try:
        return LEVELS[(text or "info").lower()]
    except KeyError:
        raise InvalidArgument(f"{text!r} is no log level (allowed: {', '.join(LEVELS)})") from None


def configure_logging(
    *,
    level: str = "info",
    file: Path | None = None,
    style: Literal["auto", "json", "text"] = "auto",
    stream: TextIO | None = None,
    **base: object,
) -> None:
    """Sets up this process's log; may be called again. `base` stands in every JSON record (process=..., cluster=...).

    `auto` writes text to a terminal and JSON everywhere else. Raises `FailedPrecondition` when the file cannot be
    opened; the log then stays as it was.
    """
    number = parse_level(level)
    handler: logging.Handler
    if file is not None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            handler = logging.FileHandler(file, encoding="utf-8")
        except OSError as error:
            raise FailedPrecondition(f"cannot write the log to {file}: {error}") from error
        terminal = False
    else:
        handler = logging.StreamHandler(stream or sys.stderr)
        terminal = (stream or sys.stderr).isatty()
    text = style == "text" or (style == "auto" and terminal)
    handler.setFormatter(TextFormatter(colour=terminal) if text else JsonFormatter(base))
    root = logging.getLogger()
    for old in [item for item in root.handlers if item in _installed]:
        root.removeHandler(old)
        old.close()
    _installed.add(handler)
    root.addHandler(handler)
    root.setLevel(number)
    logging.captureWarnings(True)
