"""Answers as columns beside those of their rows. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa

from serving.batch.checkpoint.parts import CACHED_TOKENS, COMPLETION_TOKENS, ERROR, PROMPT_TOKENS
from serving.batch.rows.request import RowAnswer, RowFault
from serving.batch.sending.openai_http import cached_of, usage_of
from serving.batch.stages.settings import (
    CHAT_TASK,
    EMBEDDING_TASK,
    KSERVE_TASK,
    RAW_TASK,
    ProcessorConfig,
)
from serving.errors import MeshError

ERROR_TYPE: Final = pa.struct([("code", pa.string()), ("message", pa.string()), ("attempts", pa.int64())])
RAW_ERROR_TYPE: Final = pa.struct([("code", pa.string()), ("message", pa.string())])
RESPONSE_TYPE: Final = pa.struct([("status_code", pa.int64()), ("request_id", pa.string()), ("body", pa.string())])
TEXT: Final = "generated_text"  # named as ray.data.llm does
FINISH: Final = "finish_reason"
EMBEDDINGS: Final = "embeddings"
Columns = dict[str, pa.Array]


def columns_of(config: ProcessorConfig, answers: Sequence[RowAnswer]) -> Columns:
    """Of every row one value in each; rows that failed have nulls, and say in `__error__` why."""
    made = _BY_TASK[config.task](config, answers)
    faults = [None if one.fault is None else one.fault.as_struct() for one in answers]
    return {**made, ERROR: pa.array(faults, type=ERROR_TYPE)}


def with_columns(table: pa.Table, columns: Mapping[str, Any]) -> pa.Table:
    """Columns of the same names are replaced."""
    for name, values in columns.items():
        at = table.schema.get_field_index(name)
        table = table.append_column(name, values) if at < 0 else table.set_column(at, name, values)
    return table


def _tokens(answers: Sequence[RowAnswer]) -> Columns:
    used = [usage_of(one.value) for one in answers]
    return {
        PROMPT_TOKENS: pa.array([prompt for prompt, _ in used], type=pa.int64()),
        COMPLETION_TOKENS: pa.array([answer for _, answer in used], type=pa.int64()),
    }


def _texts(config: ProcessorConfig, answers: Sequence[RowAnswer]) -> Columns:
    chat = config.task == CHAT_TASK
    texts: list[str | None] = []
    reasons: list[str | None] = []
    for one in answers:
        choice = _first(one, "choices")
        told = choice.get("message") or {} if chat else choice
        text = told.get("content" if chat else "text")
        texts.append(text if isinstance(text, str) else None)
        reason = choice.get("finish_reason")
        reasons.append(reason if isinstance(reason, str) else None)
    return {TEXT: pa.array(texts, type=pa.string()), FINISH: pa.array(reasons, type=pa.string()), **_tokens(answers)}


def _vectors(_config: ProcessorConfig, answers: Sequence[RowAnswer]) -> Columns:
    found = [_first(one, "data").get("embedding") for one in answers]
    return {EMBEDDINGS: pa.array(found, type=pa.list_(pa.float32())), **_tokens(answers)}


def _first(answer: RowAnswer, name: str) -> Mapping[str, Any]:
    if answer.fault is not None or not isinstance(answer.value, Mapping):
        return {}
    items = answer.value.get(name)
    return items[0] if isinstance(items, list) and items and isinstance(items[0], Mapping) else {}


def _lines(_config: ProcessorConfig, answers: Sequence[RowAnswer]) -> Columns:
    """As OpenAI's output files have them; `body` is the answer's JSON."""
    responses = [
        None
        if not one.status or not isinstance(one.value, dict)
        else {"status_code": one.status, "request_id": one.request_id, "body": one.raw.decode("utf-8", "replace")}
        for one in answers
    ]
    errors = [
        {"code": one.fault.code, "message": one.fault.message} if one.fault is not None and response is None else None
        for one, response in zip(answers, responses, strict=True)
    ]
    return {
        "response": pa.array(responses, type=RESPONSE_TYPE),
        "error": pa.array(errors, type=RAW_ERROR_TYPE),
        **_tokens(answers),
        CACHED_TOKENS: pa.array([cached_of(one.value) for one in answers], type=pa.int64()),
    }


def _tensors(config: ProcessorConfig, answers: Sequence[RowAnswer]) -> Columns:
    from serving.sdk.tensors import decode_response  # loads gRPC

    rows = [decode_response(one.value) if one.fault is None else {} for one in answers]
    names = config.outputs or tuple(dict.fromkeys(name for row in rows for name in row))
    made: Columns = {}
    for name in names:
        values = [_tensor(row.get(name), batched=config.batched) for row in rows]
        made[name] = pa.array(values)
    return made


def _tensor(value: Any, *, batched: bool) -> Any:
    """A list of lists, which a file can have; null where there is none."""
    if value is None:
        return None
    array: np.ndarray[Any, Any] = value
    return (array[0] if batched and array.ndim else array).tolist()


def failed(error: MeshError) -> RowAnswer:
    """The answer of a row that could not be sent."""
    return RowAnswer(attempts=0, fault=RowFault(error.code.name.lower(), error.message), work=0.0)


_BY_TASK: Final[Mapping[str, Callable[[ProcessorConfig, Sequence[RowAnswer]], Columns]]] = {
    RAW_TASK: _lines,
    EMBEDDING_TASK: _vectors,
    KSERVE_TASK: _tensors,
    CHAT_TASK: _texts,
    "completion": _texts,
}
