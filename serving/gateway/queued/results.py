"""The answer to whoever fetches the result of a queued request. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from serving._proto import broker_pb2 as bpb
from serving.errors import DataLoss
from serving.gateway.queued import kserve_json
from serving.gateway.queued.objects import no_result
from serving.openai.sse import to_json
from serving.sdk.item_results import error_of

_JSON: Final = "application/json"
_BINARY: Final = "application/octet-stream"
_OK: Final = 200


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    media_type: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


def answer_of(item: bpb.Item, *, binary: bool) -> Answer:
    """Of an item that has ended: what its replica answered, status and body as they were.

    Tensors are JSON as KServe's protocol has it, or with `binary` its binary form. Raises `NoResult` for an item that
    has ended without an answer, and the replica's error where it spoke gRPC.
    """
    kind = item.result.WhichOneof("body")
    if kind == "http":
        answer = item.result.http
        return Answer(answer.status, answer.content_type or _JSON, answer.body)
    error = error_of(item)
    if error is not None:
        raise no_result(item, error) or error
    if kind == "infer":
        return _tensors(item.result.infer, binary=binary)
    if kind == "infers":
        answers = [kserve_json.answer_object(one) for one in item.result.infers.responses]
        return Answer(_OK, _JSON, to_json({"object": "list", "data": answers}))
    raise DataLoss(f"the item {item.id} has ended without a result")


def _tensors(data: bytes, *, binary: bool) -> Answer:
    if not binary:
        return Answer(_OK, _JSON, to_json(kserve_json.answer_object(data)))
    body, head = kserve_json.formed_answer(data, kserve_json.BINARY)
    return Answer(_OK, _BINARY, body, {kserve_json.HEADER_LENGTH: str(head)})
