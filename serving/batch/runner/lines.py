"""A batch's lines on their way: as rows of a job, and with their answers as the lines of its output.

Source of the lines' shape: https://platform.openai.com/docs/api-reference/batch/request-output.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from serving.batch.checkpoint.identifiers import IDENTIFIER, batches_of, identifiers_of
from serving.batch.checkpoint.parts import CACHED_TOKENS, COMPLETION_TOKENS, ERROR, PROMPT_TOKENS
from serving.batch.sources.base import ROWS_IN_PIECE
from serving.batch.sources.lines import JsonlSource
from serving.batch.sources.splits import Listed, Split
from serving.batch.steps import StepResources
from serving.errors import DataLoss

LIGHT: Final = StepResources(cpus=0.01, tasks=2)  # a job's work is little beside waiting for answers
POSITION: Final = "position"  # of a line: the byte of the input at which it begins
CUSTOM_ID: Final = "custom_id"
LINE: Final = "line"
_EXPIRED: Final = {
    "code": "batch_expired",
    "message": "This request could not be executed before the completion window expired.",
}
_ENDS_OF_LINES: Final = str.maketrans("\r\n", "  ")  # which JSON has between its values only


class RequestLines(JsonlSource):
    """The lines of an input as rows of the processor's task `raw`, each with its position and `custom_id`, as JSON.

    The input was checked before: each line is an object with these fields.
    """

    kind = "batch-input"
    resources = LIGHT

    def __init__(self, path: Path, models: Mapping[str, str]) -> None:
        """`models`: what is asked for each name that the lines have."""
        super().__init__(path)
        self._models = dict(models)

    def read_split(self, split: Split) -> Iterator[pa.Table]:
        with open(split.file.path, "rb") as stream:
            for batch in batches_of(self._objects(stream, split), ROWS_IN_PIECE):
                positions, contents, requests = zip(*batch, strict=True)
                yield pa.table(
                    {
                        POSITION: pa.array(positions, type=pa.int64()),
                        CUSTOM_ID: [json.dumps(one["custom_id"]) for one in requests],
                        "url": [one["url"] for one in requests],
                        "body": [self._body(one["body"]) for one in requests],
                        IDENTIFIER: identifiers_of(requests, "", split.file.name, positions, contents),
                    }
                )

    def _body(self, body: Mapping[str, Any]) -> str:
        return json.dumps({**body, "model": self._models[body["model"]]})

    def in_order(self) -> Iterator[tuple[int, str]]:
        """Position and `custom_id`, as JSON, of every line."""
        path = Path(self.paths[0])
        split = Split(Listed(path.name, str(path), path.stat().st_size), 0, path.stat().st_size)
        with path.open("rb") as stream:
            for at, _, request in self._objects(stream, split):
                yield at, json.dumps(request["custom_id"])


class AnswerLines:
    """In workers: rows with answers become lines of the output, beside them what the job counts."""

    def __init__(self, batch: str) -> None:
        self._batch = batch

    def __call__(self, table: pa.Table) -> pa.Table:
        kept = table.select([POSITION, PROMPT_TOKENS, COMPLETION_TOKENS, CACHED_TOKENS, ERROR, IDENTIFIER])
        columns: Sequence[list[Any]] = [
            table.column(name).to_pylist() for name in (IDENTIFIER, CUSTOM_ID, "response", "error")
        ]
        lines = [
            line_of(f"{self._batch}{row}", custom_id, response, error)
            for row, custom_id, response, error in zip(*columns, strict=True)
        ]
        return kept.append_column(LINE, pa.array(lines, type=pa.string()))


def line_of(name: str, custom_id: str, response: Mapping[str, Any] | None, error: Mapping[str, Any] | None) -> str:
    """`name` is unlike those of all other lines; `custom_id` and the response's `body` are JSON."""
    told = "null"
    if response is not None:
        status, request_id = json.dumps(response["status_code"]), json.dumps(response["request_id"])
        body = response["body"].translate(_ENDS_OF_LINES)
        told = f'{{"status_code": {status}, "request_id": {request_id}, "body": {body}}}'
    line_id = f"batch_req_{hashlib.blake2b(name.encode(), digest_size=16).hexdigest()}"
    return f'{{"id": "{line_id}", "custom_id": {custom_id}, "response": {told}, "error": {json.dumps(error)}}}'


def expired_line(batch: str, position: int, custom_id: str) -> str:
    """Of a request that was not answered in its batch's window."""
    return line_of(f"{batch}{position}", custom_id, None, _EXPIRED)


class Answered:
    """The answers that a job has collected, in whatever order, by their positions. To be closed."""

    def __init__(self, path: Path) -> None:
        """`path` of JSON lines of `AnswerLines`' columns; each position once. Raises `DataLoss`."""
        self.completed = self.failed = 0
        self.tokens = [0, 0, 0]  # prompt, completion, cached
        self._at: dict[int, int] = {}
        self._stream = path.open("rb")
        at = 0
        for line in self._stream:
            row = json.loads(line)
            if row[POSITION] in self._at:
                raise DataLoss(f"{path}: the line at byte {row[POSITION]} of the input was answered twice")
            self._at[row[POSITION]] = at
            at += len(line)
            self.failed += row[ERROR] is not None
            self.completed += row[ERROR] is None
            for number, name in enumerate((PROMPT_TOKENS, COMPLETION_TOKENS, CACHED_TOKENS)):
                self.tokens[number] += row[name]

    def close(self) -> None:
        self._stream.close()

    def get(self, position: int) -> tuple[str, bool] | None:
        """The output's line, and whether it failed; None where there is no answer."""
        at = self._at.get(position)
        if at is None:
            return None
        self._stream.seek(at)
        row = json.loads(self._stream.readline())
        return row[LINE], row[ERROR] is not None
