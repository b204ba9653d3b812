"""KServe v2 messages ↔ `Request` and answers. Pure."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.message import DecodeError
from numpy.typing import ArrayLike
from tritonclient.grpc import service_pb2

from serving.errors import DataLoss, Internal, InvalidArgument, NotSupported
from serving.python_deployment.request import Request, Response, Tensor
from serving.sdk.tensors import BF16, Array, decode_tensor, encode_tensor, set_parameter, varint

FINAL: Final = "triton_final_response"
WANTS_EMPTY_FINAL: Final = "triton_enable_empty_final_response"
_RAW_OUTPUT_TAG: Final = b"\x32"  # field 6 of ModelInferResponse (raw_output_contents), length-delimited
_STREAMED_TAG: Final = b"\x12"  # field 2 of ModelStreamInferResponse (infer_response), length-delimited
_TRACEPARENT: Final = "traceparent"
_MEMORY: Final = "shared_memory_region"
_LONGEST_S: Final = 366 * 24 * 3600.0  # gRPC says "no deadline" by one that is far away


@dataclass(frozen=True, slots=True)
class Signature:
    """The model as clients see it. Empty `inputs` or `outputs` were not declared and are not checked."""

    model: str
    version: str
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()


def parse(data: bytes, kind: Any) -> Any:
    """The message; raises `InvalidArgument` when it is none."""
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise InvalidArgument(f"the message is no {kind.DESCRIPTOR.name}") from error


def decode_request(
    message: Any, signature: Signature, metadata: Sequence[tuple[str, str | bytes]], left_s: float | None
) -> Request:
    """The request of a `ModelInferRequest`, checked against what is declared. Raises `InvalidArgument`."""
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise InvalidArgument(
            f"the request for model {signature.model} has {len(message.inputs)} inputs, raw contents of {len(raw)}"
        )
    inputs: dict[str, Array] = {}
    for index, tensor in enumerate(message.inputs):
        if _MEMORY in tensor.parameters:
            raise NotSupported("this deployment takes no shared memory; send the contents")
        if tensor.name in inputs:
            raise InvalidArgument(f"input {tensor.name} stands in the request twice")
        try:
            inputs[tensor.name] = decode_tensor(f"input {tensor.name}", tensor, raw[index] if raw else None)
        except DataLoss as error:  # the sender's fault here
            raise InvalidArgument(error.message) from error
        inputs[tensor.name].flags.writeable = False
    _check_inputs(message, signature)
    pairs = tuple(metadata)
    return Request(
        model=signature.model,
        version=message.model_version,
        id=message.id,
        inputs=inputs,
        outputs=_wanted_outputs(message, signature),
        parameters=_parameters(message.parameters),
        metadata=pairs,
        deadline=time.monotonic() + left_s if left_s is not None and left_s < _LONGEST_S else None,
        traceparent=next((value for name, value in pairs if name == _TRACEPARENT and isinstance(value, str)), ""),
    )


def encode_answer(answer: object, request: Request, signature: Signature, *, final: bool | None = None) -> bytes:
    """A `ModelInferResponse`, or with `final` given a `ModelStreamInferResponse` that says so.

    Raises `Internal` for what is no answer, `InvalidArgument` when an output was asked for that there is not.
    """
    if not isinstance(answer, Response):
        if not isinstance(answer, Mapping):
            raise Internal(f"infer answered a {type(answer).__name__}; expected is a mapping of names to arrays")
        answer = Response(answer)
    head = _head(request, signature, final)
    body: list[bytes | memoryview] = []
    chosen = _chosen(answer.outputs, request, signature)
    try:
        for name, value in chosen.items():
            datatype, shape, contents = encode_tensor(f"output {name}", value)
            head.outputs.add(name=name, datatype=datatype, shape=shape)
            body += (_RAW_OUTPUT_TAG, varint(len(contents)), contents)
        for name, parameter in answer.parameters.items():
            set_parameter(name, head.parameters[name], parameter)
    except (InvalidArgument, TypeError, ValueError) as error:
        raise Internal(f"infer answered what cannot be sent: {error}") from error
    return _serialized(head, body, streamed=final is not None)


def encode_end(request: Request, signature: Signature) -> bytes:
    """The empty last answer of a stream."""
    return _serialized(_head(request, signature, True), [], streamed=True)


def encode_streamed_error(text: str, model: str, request_id: str) -> bytes:
    """A `ModelStreamInferResponse` that ends one request of a stream with an error."""
    made = service_pb2.ModelStreamInferResponse(error_message=text)
    made.infer_response.model_name = model
    made.infer_response.id = request_id
    made.infer_response.parameters[FINAL].bool_param = True
    return bytes(made.SerializeToString())


def _head(request: Request, signature: Signature, final: bool | None) -> Any:
    head = service_pb2.ModelInferResponse(model_name=signature.model, model_version=signature.version, id=request.id)
    if final is not None:
        head.parameters[FINAL].bool_param = final
    return head


def _serialized(head: Any, body: list[bytes | memoryview], *, streamed: bool) -> bytes:
    parts = [head.SerializeToString(), *body]
    if streamed:
        parts = [_STREAMED_TAG, varint(sum(len(part) for part in parts)), *parts]
    return b"".join(parts)


def _chosen(
    outputs: Mapping[str, ArrayLike | BF16], request: Request, signature: Signature
) -> Mapping[str, ArrayLike | BF16]:
    missing = [name for name in request.outputs if name not in outputs]
    if missing and not signature.outputs:  # what is declared was checked before
        raise InvalidArgument(f"unexpected inference output '{missing[0]}' for model '{signature.model}'")
    if missing:
        raise Internal(f"infer did not answer the output {missing[0]}, which is declared")
    return {name: outputs[name] for name in request.outputs} if request.outputs else outputs


def _wanted_outputs(message: Any, signature: Signature) -> tuple[str, ...]:
    declared = {tensor.name for tensor in signature.outputs}
    for output in message.outputs:
        if "classification" in output.parameters or _MEMORY in output.parameters:
            raise NotSupported("this deployment answers outputs as they are: no classification, no shared memory")
        if declared and output.name not in declared:
            raise InvalidArgument(f"unexpected inference output '{output.name}' for model '{signature.model}'")
    return tuple(output.name for output in message.outputs)


def _check_inputs(message: Any, signature: Signature) -> None:
    if not signature.inputs:
        return
    given = {tensor.name: tensor for tensor in message.inputs}
    declared = {tensor.name: tensor for tensor in signature.inputs}
    for name in given:
        if name not in declared:
            raise InvalidArgument(f"unexpected inference input '{name}' for model '{signature.model}'")
    for name, tensor in declared.items():
        if name in given:
            _check_tensor(given[name], tensor, signature.model)
        elif not tensor.optional:
            raise InvalidArgument(f"input '{name}' of model '{signature.model}' is missing")


def _check_tensor(given: Any, declared: Tensor, model: str) -> None:
    if given.datatype != declared.datatype:
        raise InvalidArgument(
            f"input '{given.name}' of model '{model}' expects {declared.datatype}, got {given.datatype}"
        )
    shape, wanted = list(given.shape), list(declared.shape)
    fits = len(shape) == len(wanted) and all(want in (-1, have) for have, want in zip(shape, wanted, strict=True))
    if not fits:
        raise InvalidArgument(f"input '{given.name}' of model '{model}' expects the shape {wanted}, got {shape}")


def _parameters(given: Any) -> dict[str, bool | int | float | str]:
    found: dict[str, bool | int | float | str] = {}
    for name, parameter in given.items():
        kind = parameter.WhichOneof("parameter_choice")
        if kind is not None:
            found[name] = getattr(parameter, kind)
    return found
