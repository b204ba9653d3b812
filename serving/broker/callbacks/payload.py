"""The JSON document of a callback. Pure.

It holds the result where that is small and JSON can say it, and otherwise the ticket, which fetches it: whoever is sent
the result needs no ticket, and a ticket in a receiver's log would outlive it.
"""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any, Final

from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from serving._proto import broker_pb2 as pb
from serving.broker.callbacks.records import Kept
from serving.broker.items import NEVER
from serving.errors import Code, MeshError
from serving.sdk.tensors import decode_response

_JSON: Final = "application/json"


def webhook_id(item_id: str, round_: int) -> str:
    """The same in all tries of one end; the standard wants it without full stops."""
    return f"{item_id.replace('.', '-')}-{round_}"


def payload(kept: Kept, application: str, item_id: str, ticket: str) -> bytes:
    """`type` and `timestamp` as https://www.standardwebhooks.com recommends, then `data` about the item.

    `data.result` is named as the fields of `mesh.broker.v1.Result`: `infer` and each of `infers` as the Open Inference
    Protocol writes tensors in JSON, `http` with its body as JSON where it is some, `failure`. It is null where there is
    none, and where it is to be fetched with `data.ticket`.
    """
    item = kept.item
    name = item.state.name
    result = _result(kept.result) if kept.result is not None else None
    data = {
        "id": item_id,
        "application": application,
        "deployment": item.deployment,
        "tenant": item.tenant,
        "state": name,
        "labels": dict(item.labels),
        "attempts": item.attempts,
        "reason": item.reason,
        "submitted_at": _time(item.submitted),
        "started_at": _time(item.started),
        "ended_at": _time(item.ended),
        "deadline_at": _time(item.deadline if item.deadline < NEVER else 0.0),
        "result": result,
        "result_bytes": item.result_bytes if item.state.answered else 0,
    }
    if item.state.answered and result is None:
        data["ticket"] = f"{application}/{ticket}" if application else ticket
    return _dumped({"type": f"item.{name.lower()}", "timestamp": _time(item.ended), "data": data})


def _dumped(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _time(seconds: float) -> str | None:
    if not seconds:
        return None
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _result(body: bytes) -> dict[str, Any] | None:
    """None for what JSON cannot say: numbers that are none, bytes that are no text, what is malformed."""
    try:
        made = _said(pb.Result.FromString(body))
        _dumped(made)
    except (ValueError, RecursionError, DecodeError, MeshError):  # UnicodeError is a ValueError
        return None
    return made


def _said(result: pb.Result) -> dict[str, Any]:
    kind = result.WhichOneof("body")
    if kind == "failure":
        return {"failure": {"code": Code(result.failure.code).name, "message": result.failure.message}}
    if kind == "infer":
        return {"infer": _tensors(result.infer)}
    if kind == "infers":
        return {"infers": [_tensors(one) for one in result.infers.responses]}
    answer = result.http
    text = answer.body.decode()
    is_json = answer.content_type.partition(";")[0].strip().lower() == _JSON
    return {
        "http": {
            "status": answer.status,
            "content_type": answer.content_type,
            "body": json.loads(text) if is_json else text,
        }
    }


def _tensors(data: bytes) -> dict[str, Any]:
    """https://github.com/kserve/open-inference-protocol: `InferenceResponseObject`, contents in row-major order."""
    response = service_pb2.ModelInferResponse.FromString(data)
    arrays = decode_response(response)
    outputs = []
    for output in response.outputs:
        flat = arrays[output.name].reshape(-1)
        values = [one.decode() for one in flat] if output.datatype == "BYTES" else flat.tolist()
        outputs.append({"name": output.name, "datatype": output.datatype, "shape": list(output.shape), "data": values})
    made = {"model_name": response.model_name, "model_version": response.model_version, "outputs": outputs}
    return {**made, "id": response.id} if response.id else made
