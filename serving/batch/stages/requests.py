"""Rows as requests: prepared, with their prompt made, checked. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from serving.batch.rows.request import RowRequest, openai_request
from serving.batch.stages.settings import (
    CHAT_TASK,
    EMBEDDING_TASK,
    KSERVE_TASK,
    PATH_OF,
    RAW_TASK,
    ProcessorConfig,
)
from serving.errors import InvalidArgument

_SAMPLING: Final = "sampling_params"
_EXPECTED: Final = "expected_tokens"
_PRIORITY: Final = "priority"  # of Triton's, among a request's parameters
Row = Mapping[str, Any]


def needed_columns(config: ProcessorConfig) -> frozenset[str] | None:
    """Those of a row that its request is made of; None: any may be."""
    if config.template:
        return None
    own = {
        CHAT_TASK: ("messages", "prompt"),
        EMBEDDING_TASK: ("input", "prompt"),
        RAW_TASK: ("url", "body"),
        KSERVE_TASK: tuple(config.inputs),
    }.get(config.task, ("prompt",))
    return frozenset((*own, _SAMPLING, _EXPECTED))


def request_of(config: ProcessorConfig, row: Row) -> RowRequest:
    """Raises `InvalidArgument` that says what is wrong with the row."""
    if config.task == KSERVE_TASK:
        return _tensors(config, row)
    if config.task == RAW_TASK:
        return openai_request(_text(row, "url"), _body(row.get("body")), expected=_expected(row))
    body = {**config.sampling, **_object(row.get(_SAMPLING), _SAMPLING), **_content(config, row)}
    return openai_request(PATH_OF[config.task], body, expected=_expected(row))


def _content(config: ProcessorConfig, row: Row) -> dict[str, Any]:
    if config.task == CHAT_TASK:
        return {"messages": _messages(config, row)}
    if config.task == EMBEDDING_TASK:
        given = plain(row.get("input"))
        return {"input": _prompt(config, row) if is_null(given) else given}
    return {"prompt": _prompt(config, row)}


def _messages(config: ProcessorConfig, row: Row) -> list[Any]:
    given = plain(row.get("messages"))
    if not is_null(given):
        if not isinstance(given, list):
            raise InvalidArgument(f"messages: a list is wanted, found {type(given).__name__}")
        return given
    system = [{"role": "system", "content": config.system}] if config.system else []
    return [*system, {"role": "user", "content": _prompt(config, row)}]


def _prompt(config: ProcessorConfig, row: Row) -> Any:
    if not config.template:
        given = plain(row.get("prompt"))
        if is_null(given):
            raise InvalidArgument(f"prompt: the row has none (columns: {', '.join(sorted(row))})")
        return given
    try:
        return config.template.format_map(_Filled(row))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise InvalidArgument(f"template: {config.template[:80]!r} does not fit the row: {error!r}") from error


class _Filled(dict[str, Any]):
    """Cells of a row: one that is null makes no text."""

    def __getitem__(self, name: str) -> Any:
        value = super().__getitem__(name)
        if is_null(value):
            raise ValueError(f"the column {name} is null")
        return value


def _tensors(config: ProcessorConfig, row: Row) -> RowRequest:
    from serving.sdk.tensors import encode_request  # loads gRPC

    inputs = {}
    for name, datatype in config.inputs.items():
        value = row.get(name)
        if value is None:
            raise InvalidArgument(f"{name}: the row has no such tensor (columns: {', '.join(sorted(row))})")
        try:
            made = _array(value, datatype)
        except (TypeError, ValueError, ArithmeticError) as error:
            raise InvalidArgument(f"{name}: is no tensor of {datatype}: {error}") from error
        inputs[name] = made[np.newaxis] if config.batched else made
    parameters = {_PRIORITY: config.priority} if config.priority else None
    model = config.target.model
    message = encode_request(model, inputs, outputs=config.outputs or None, parameters=parameters)
    return RowRequest("", message, model, expected=_expected(row) or 1.0)


def _array(value: Any, datatype: str) -> np.ndarray[Any, Any]:
    if datatype in ("bytes", "str"):
        return np.asarray(value, dtype=object)
    if np.dtype(datatype).kind not in "iu":
        with np.errstate(over="raise"):  # it would be infinite
            return np.asarray(value, dtype=datatype)
    given = np.asarray(value)
    if given.size and given.dtype.kind not in "iufb":
        raise TypeError(f"numbers are wanted, found {given.dtype}")
    with np.errstate(invalid="ignore"):  # of NaN, which then is another number
        made = given.astype(datatype)
    if not np.array_equal(made, given):
        raise OverflowError("a number is out of its range, or not whole")
    return made


def _expected(row: Row) -> float | None:
    value = row.get(_EXPECTED)
    if is_null(value):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not 0 <= value < math.inf:
        raise InvalidArgument(f"{_EXPECTED}: a number of tokens is wanted, found {value!r}")
    return float(value)


def _text(row: Row, name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str):
        raise InvalidArgument(f"{name}: a text is wanted, found {type(value).__name__}")
    return value


def _body(given: Any) -> dict[str, Any]:
    if not isinstance(given, str | bytes):
        return _object(given, "body", wanted=True)
    try:
        return _object(json.loads(given), "body", wanted=True, nulls=True)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"body: is no JSON: {error}") from error


def _object(given: Any, name: str, *, wanted: bool = False, nulls: bool = False) -> dict[str, Any]:
    """`nulls` are the user's own, not those of a column."""
    if is_null(given) and not wanted:
        return {}
    if not isinstance(given, dict):
        raise InvalidArgument(f"{name}: an object is wanted, found {type(given).__name__}")
    found = given if nulls else plain(given)
    assert isinstance(found, dict)
    return found


def is_null(value: Any) -> bool:
    """Pandas writes NaN where a column has nothing."""
    return value is None or (isinstance(value, float) and value != value)


def plain(value: Any) -> Any:
    """Without numpy's types, and without what columns put into objects: each has the fields of all, as nulls."""
    if isinstance(value, np.ndarray):
        return [plain(item) for item in value.tolist()]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items() if not is_null(item)}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
