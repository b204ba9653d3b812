"""An input file line by line: what a batch may ask, and of what is wrong the line, the field and why. Pure.

Memory is bounded by `InputLimits`, not by the file. Source: https://platform.openai.com/docs/guides/batch and what the
API answers; where it has no code for something, the word is ours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

from serving._proto import batch_pb2 as pb
from serving.openai.errors import InvalidRequest
from serving.openai.json_body import read_object

ENDPOINTS: Final = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses")
_EMBEDDINGS: Final = "/v1/embeddings"
_MAX_ID: Final = 512  # characters of a custom_id
_MAX_MODEL: Final = 512
_SHOWN: Final = 60  # characters of a wrong value
_ID_HASH_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class InputLimits:
    """Of one input file. `inputs`: texts of an embeddings batch, all lines together; `faults`: how many are told."""

    requests: int = 50_000
    line_bytes: int = 8 << 20
    models: int = 64
    inputs: int = 50_000
    faults: int = 100


@dataclass(frozen=True, slots=True)
class InputReport:
    """`total`: requests of the file, as far as it was read. `models` in the order of their first lines.

    With any fault nothing of the file is run. `faults` are the first of `fault_count`.
    """

    total: int
    models: tuple[str, ...]
    faults: tuple[pb.BatchLineError, ...]
    fault_count: int


class _Fault(Exception):
    def __init__(self, code: str, message: str, param: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param


def check_input(file: BinaryIO, endpoint: str, limits: InputLimits | None = None) -> InputReport:
    """Reads from where the file stands to its end, or to one line more than there may be. Empty lines are no requests.

    `endpoint` is the batch's, one of `ENDPOINTS`. Raises what reading raises.
    """
    return _Check(endpoint, limits or InputLimits()).run(file)


class _Check:
    def __init__(self, endpoint: str, limits: InputLimits) -> None:
        self._endpoint = endpoint
        self._limits = limits
        self._ids: set[bytes] = set()
        self._models: dict[str, None] = {}
        self._inputs = 0
        self._faults: list[pb.BatchLineError] = []
        self._fault_count = 0
        self._total = 0

    def run(self, file: BinaryIO) -> InputReport:
        for number, line in _lines(file, self._limits.line_bytes):
            if self._total == self._limits.requests:
                text = f"the file has more than {self._limits.requests} requests; send several batches"
                self._note(_Fault("too_many_requests", text), number)
                break
            self._total += 1
            try:
                self._check(line)
            except _Fault as fault:
                self._note(fault, number)
        if not self._total:
            self._note(_Fault("empty_file", "the file has no requests: one JSON object in each line is wanted"), 0)
        return InputReport(self._total, tuple(self._models), tuple(self._faults), self._fault_count)

    def _note(self, fault: _Fault, line: int) -> None:
        self._fault_count += 1
        if len(self._faults) < self._limits.faults:
            told = pb.BatchLineError(code=fault.code, message=fault.message, param=fault.param, line=line)
            self._faults.append(told)

    def _check(self, line: bytes | None) -> None:
        if line is None:
            raise _Fault("line_too_long", f"the line has more than the {self._limits.line_bytes} bytes that are taken")
        try:
            request = read_object(line, limit_bytes=self._limits.line_bytes)
        except InvalidRequest as error:
            text = error.message.replace("the body", "the line")
            raise _Fault("invalid_json_line", f"This line is not parseable as valid JSON: {text}") from error
        self._check_id(_field(request, "custom_id", str))
        method = _field(request, "method", str)
        if method != "POST":
            raise _Fault("invalid_method", f"`method`: POST is wanted, found {_shown(method)}", "method")
        url = _field(request, "url", str)
        if url != self._endpoint:
            text = f"`url`: the batch's endpoint {self._endpoint} is wanted, found {_shown(url)}"
            raise _Fault("invalid_url", text, "url")
        self._check_body(_field(request, "body", dict))

    def _check_id(self, custom_id: str) -> None:
        if not 0 < len(custom_id) <= _MAX_ID:
            text = f"`custom_id`: 1 to {_MAX_ID} characters are wanted, found {len(custom_id)}"
            raise _Fault("invalid_custom_id", text, "custom_id")
        known = hashlib.blake2b(custom_id.encode(), digest_size=_ID_HASH_BYTES).digest()
        if known in self._ids:
            text = f"`custom_id`: {_shown(custom_id)} stands in an earlier line, too"
            raise _Fault("duplicate_custom_id", text, "custom_id")
        self._ids.add(known)

    def _check_body(self, body: dict[str, Any]) -> None:
        model = _field(body, "model", str, "body.model")
        if not 0 < len(model) <= _MAX_MODEL:
            raise _Fault(
                "invalid_model", f"`body.model`: a model's name is wanted, found {_shown(model)}", "body.model"
            )
        for name in ("stream", "background"):
            if body.get(name) not in (None, False):
                text = f"`body.{name}` is not supported in batches: leave it out"
                raise _Fault("unsupported_parameter", text, f"body.{name}")
        if self._endpoint == _EMBEDDINGS:
            self._inputs += _inputs(body.get("input"))
            if self._inputs > self._limits.inputs:
                text = f"`body.input`: more than {self._limits.inputs} texts in all lines; send several batches"
                raise _Fault("too_many_inputs", text, "body.input")
        if model not in self._models:
            if len(self._models) == self._limits.models:
                text = f"`body.model`: the file asks for more than {self._limits.models} models; send several batches"
                raise _Fault("too_many_models", text, "body.model")
            self._models[model] = None


def _field(values: dict[str, Any], name: str, kind: type[Any], path: str = "") -> Any:
    path = path or name
    if values.get(name) is None:
        raise _Fault("missing_required_parameter", f"Missing required parameter: `{path}`", path)
    value = values[name]
    if not isinstance(value, kind):
        wanted = "an object" if kind is dict else "a text"
        raise _Fault("invalid_type", f"`{path}`: {wanted} is wanted, found {_shown(value)}", path)
    return value


def _inputs(value: Any) -> int:
    """A list of numbers is one text, as tokens."""
    return len(value) if isinstance(value, list) and value and not isinstance(value[0], int) else 1


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _lines(file: BinaryIO, limit_bytes: int) -> Iterator[tuple[int, bytes | None]]:
    """Those that are not empty, with their numbers from 1; None for one that is too long."""
    number = 0
    while line := file.readline(limit_bytes + 2):
        number += 1
        whole = line.endswith(b"\n") or len(line) < limit_bytes + 2
        if not whole:
            while (rest := file.readline(1 << 20)) and not rest.endswith(b"\n"):
                pass
        text = line.rstrip(b"\r\n")
        if not whole or len(text) > limit_bytes:
            yield number, None
        elif text.strip():
            yield number, text
