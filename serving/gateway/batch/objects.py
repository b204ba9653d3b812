"""What clients send and are told of files and batches. Pure.

Source: https://platform.openai.com/docs/api-reference/files and /batch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import Field
from typing_extensions import TypedDict

from serving._proto import batch_pb2 as pb
from serving.batch.orders.view import BatchObject
from serving.gateway.batch.forms import ANCHOR, LEAST_EXPIRY_S, MOST_EXPIRY_S, SECONDS
from serving.openai.checked import RequestModel, at_most, checked
from serving.openai.errors import InvalidRequest

MOST_WINDOW_S: Final = 14 * 24 * 3600
LEAST_WINDOW_S: Final = 10
_WINDOW: Final = r"[1-9][0-9]{0,6}[smhd]"
_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600}
T = TypeVar("T")


class OutputExpiresAfter(RequestModel):
    """Of output and error file, from when they are made."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=LEAST_EXPIRY_S, le=MOST_EXPIRY_S)]


class BatchRequest(RequestModel):
    """`completion_window`: `24h`, or another number of seconds, minutes, hours or days (`90m`).

    `in_order` and `mode` are extensions: lines of the output stand in the order of the input; `own` has an application
    of its own made for the batch, where `shared` (also where nothing is said) leaves it to a runner of many.
    """

    input_file_id: Annotated[str, Field(min_length=1, max_length=200)]
    endpoint: Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"]
    completion_window: Annotated[str, Field(pattern=f"^{_WINDOW}$")]
    metadata: Annotated[
        dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]] | None, at_most(16)
    ] = None
    output_expires_after: OutputExpiresAfter | None = None
    in_order: bool | None = None
    mode: Literal["shared", "own"] | None = None

    @property
    def window_s(self) -> int:
        """Raises `InvalidRequest`."""
        text = self.completion_window
        seconds = int(text[:-1]) * _UNITS_S[text[-1]]
        if not LEAST_WINDOW_S <= seconds <= MOST_WINDOW_S:
            raise InvalidRequest(
                f"`completion_window`: {LEAST_WINDOW_S}s to {MOST_WINDOW_S // 3600}h is wanted, found {text!r}",
                param="completion_window",
                error_code="invalid_value",
            )
        return seconds


class FileForm(RequestModel):
    """The form of an upload, as the OpenAPI document has it; it is read by `forms`."""

    file: Annotated[str, Field(json_schema_extra={"format": "binary"}, min_length=1)]
    purpose: Literal["batch"]
    anchor: Annotated[Literal["created_at"] | None, Field(alias=ANCHOR)] = None
    seconds: Annotated[int | None, Field(alias=SECONDS, ge=LEAST_EXPIRY_S, le=MOST_EXPIRY_S)] = None


class FileObject(TypedDict):
    """A file. Times are unix seconds; without `expires_at` it is kept until it is deleted."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: Literal["processed"]
    status_details: None


class FileDeleted(TypedDict):
    """It is gone."""

    id: str
    object: Literal["file"]
    deleted: bool


class FileList(TypedDict):
    """A page of files; `has_more`: the next one begins after `last_id`."""

    object: Literal["list"]
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class BatchList(TypedDict):
    """A page of batches, the newest first; `has_more`: the next one begins after `last_id`."""

    object: Literal["list"]
    data: list[BatchObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


def read_batch_request(body: Mapping[str, Any]) -> BatchRequest:
    """Raises `InvalidRequest` that names the field."""
    return checked(BatchRequest, body, {})


def file_object(record: pb.FileRecord) -> FileObject:
    return {
        "id": record.id,
        "object": "file",
        "bytes": record.bytes,
        "created_at": record.created_at.seconds,
        "expires_at": record.expires_at.seconds if record.HasField("expires_at") else None,
        "filename": record.filename,
        "purpose": record.purpose,
        "status": "processed",
        "status_details": None,
    }


def page_of(found: Sequence[T], name: Callable[[T], str], *, after: str, limit: int) -> tuple[list[T], bool]:
    """At most `limit` of them behind the one that is called `after`; whether there are more.

    Raises `InvalidRequest` where there is no such one.
    """
    begin = 0
    if after:
        begin = next((at + 1 for at, one in enumerate(found) if name(one) == after), 0)
        if not begin:
            raise InvalidRequest(f"`after`: {after[:80]!r} is not there", param="after", error_code="invalid_value")
    return list(found[begin : begin + limit]), len(found) > begin + limit


def page_limit(text: str | None, *, default: int, most: int) -> int:
    """Raises `InvalidRequest`."""
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,6}", text) or not 1 <= int(text) <= most:
        raise InvalidRequest(
            f"`limit`: 1 to {most} is wanted, found {text[:40]!r}", param="limit", error_code="invalid_value"
        )
    return int(text)
