"""Answers as columns beside those of their rows. Pure."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa

from serving.batch.checkpoint.parts import CACHED_TOKENS, COMPLETION_TOKENS, ERROR, PROMPT_TOKENS
from serving.batch.rows.request import RowAnswer, RowFault
from serving.batch.sending.openai_http import cached_of, usage_of
from serving.batch.stages.settings import (
    CHAT_TASK,
    COMPLETION_TASK,
    EMBEDDING_TASK,
    KSERVE_TASK,
    RAW_TASK,
    ProcessorConfig,
)
from serving.errors import DataLoss, InvalidArgument, MeshError

ERROR_TYPE: Final = pa.struct([("code", pa.string()), ("message", pa.string()), ("attempts", pa.int64())])
RAW_ERROR_TYPE: Final = pa.struct([("code", pa.string()), ("message", pa.string())])
RESPONSE_TYPE: Final = pa.struct([("status_code", pa.int64()), ("request_id", pa.string()), ("body", pa.string())])
TEXT: Final = "generated_text"  # named as ray.data.llm does
FINISH: Final = "finish_reason"
EMBEDDINGS: Final = "embeddings"
_SHOWN: Final = 500  # characters of what is wrong with an answer
Columns = dict[str, pa.Array]
Values = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Cells:
    """A row's answer, by column."""

    values: Values
    fault: RowFault | None = None


def cells_of(config: ProcessorConfig, answer: RowAnswer) -> Cells:
    """What is left of an answer. One that has not what the task asks for is a fault, `invalid_answer`."""
    try:
        return Cells(_VALUES_OF[config.task](config, answer), answer.fault)
    except (TypeError, ValueError, OverflowError, DataLoss) as error:
        fault = RowFault("invalid_answer", f"the answer cannot be read: {error}"[:_SHOWN], answer.attempts)
        return Cells({}, fault)


def columns_of(config: ProcessorConfig, rows: Sequence[Cells]) -> Columns:
    """Of every row one value in each; rows that failed have nulls, and say in `__error__` why.

    Raises `InvalidArgument` for outputs of a model that make no column.
    """
    if config.task == KSERVE_TASK:
        names = config.outputs or tuple(dict.fromkeys(name for row in rows for name in row.values))
        made = {name: column(name, [row.values.get(name) for row in rows]) for name in names}
    else:
        made = {
            name: pa.array([row.values.get(name, default) for row in rows], type=kind)
            for name, (kind, default) in _TYPES[config.task].items()
        }
    faults = [None if row.fault is None else row.fault.as_struct() for row in rows]
    return {**made, ERROR: pa.array(faults, type=ERROR_TYPE)}


def column(name: str, values: Sequence[Any]) -> pa.Array:
    """Of the type that they have. Raises `InvalidArgument`."""
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise InvalidArgument(f"the values of {name!r} make no column: {error}") from error


def with_columns(table: pa.Table, columns: Mapping[str, Any]) -> pa.Table:
    """Columns of the same names are replaced."""
    for name, values in columns.items():
        at = table.schema.get_field_index(name)
        table = table.append_column(name, values) if at < 0 else table.set_column(at, name, values)
    return table


def _tokens(answer: RowAnswer) -> Values:
    prompt, made = usage_of(answer.value)
    return {PROMPT_TOKENS: prompt, COMPLETION_TOKENS: made}


def _chat(_config: ProcessorConfig, answer: RowAnswer) -> Values:
    choice = _first(answer, "choices")
    if choice is None:
        return {}
    return {**_text(_object(choice.get("message"), "message").get("content"), choice), **_tokens(answer)}


def _completion(_config: ProcessorConfig, answer: RowAnswer) -> Values:
    choice = _first(answer, "choices")
    return {} if choice is None else {**_text(choice.get("text"), choice), **_tokens(answer)}


def _text(text: Any, choice: Mapping[str, Any]) -> Values:
    """`text` is null where a model calls tools instead."""
    for one in (text, choice.get("finish_reason")):
        if not isinstance(one, str | None):
            raise TypeError(f"a text is wanted, found {type(one).__name__}")
        (one or "").encode()  # half of a surrogate pair has no UTF-8
    return {TEXT: text, FINISH: choice.get("finish_reason")}


def _vector(_config: ProcessorConfig, answer: RowAnswer) -> Values:
    """Also of `encoding_format: base64`: little-endian, as OpenAI's clients read it."""
    first = _first(answer, "data")
    if first is None:
        return {}
    given = first.get("embedding")
    if isinstance(given, str):
        made = np.frombuffer(base64.b64decode(given, validate=True), "<f4")
    else:
        made = np.asarray(given, np.float32)
    if made.ndim != 1:
        raise TypeError(f"a vector is wanted, found {type(given).__name__}")
    return {EMBEDDINGS: made, **_tokens(answer)}


def _first(answer: RowAnswer, name: str) -> Mapping[str, Any] | None:
    """None for a row that failed."""
    if answer.fault is not None:
        return None
    items = _object(answer.value, "answer").get(name)
    if not isinstance(items, list) or not items:
        raise TypeError(f"it has no `{name}`")
    return _object(items[0], name)


def _object(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{name}: an object is wanted, found {type(value).__name__}")
    return value


def _line(_config: ProcessorConfig, answer: RowAnswer) -> Values:
    """As OpenAI's output files have them; `body` is the answer's JSON."""
    fault = answer.fault
    if answer.status and isinstance(answer.value, dict):
        body = answer.raw.decode("utf-8")
        response = {"status_code": answer.status, "request_id": answer.request_id, "body": body}
        return {"response": response, **_tokens(answer), CACHED_TOKENS: cached_of(answer.value)}
    return {} if fault is None else {"error": {"code": fault.code, "message": fault.message}, **_tokens(answer)}


def _tensors(config: ProcessorConfig, answer: RowAnswer) -> Values:
    """Lists of lists, which a file can have."""
    from serving.sdk.tensors import decode_response  # loads gRPC

    found = decode_response(answer.value) if answer.fault is None else {}
    return {name: (one[0] if config.batched and one.ndim else one).tolist() for name, one in found.items()}


def failed(error: MeshError) -> RowAnswer:
    """The answer of a row that could not be sent."""
    return RowAnswer(attempts=0, fault=RowFault(error.code.name.lower(), error.message), work=0.0)


_TOKEN_TYPES: Final = {PROMPT_TOKENS: (pa.int64(), 0), COMPLETION_TOKENS: (pa.int64(), 0)}
_TEXT_TYPES: Final = {TEXT: (pa.string(), None), FINISH: (pa.string(), None), **_TOKEN_TYPES}
_TYPES: Final[Mapping[str, Mapping[str, tuple[pa.DataType, Any]]]] = {  # and what stands there of rows without a value
    CHAT_TASK: _TEXT_TYPES,
    COMPLETION_TASK: _TEXT_TYPES,
    EMBEDDING_TASK: {EMBEDDINGS: (pa.list_(pa.float32()), None), **_TOKEN_TYPES},
    RAW_TASK: {
        "response": (RESPONSE_TYPE, None),
        "error": (RAW_ERROR_TYPE, None),
        **_TOKEN_TYPES,
        CACHED_TOKENS: (pa.int64(), 0),
    },
}
_VALUES_OF: Final[Mapping[str, Callable[[ProcessorConfig, RowAnswer], Values]]] = {
    CHAT_TASK: _chat,
    COMPLETION_TASK: _completion,
    EMBEDDING_TASK: _vector,
    KSERVE_TASK: _tensors,
    RAW_TASK: _line,
}
