"""KServe v2 over gRPC (`inference.GRPCInferenceService`) for one model that Python code computes.

The messages are those of `tritonclient`; what they mean is in proto/open_inference.proto. Messages arrive as bytes, so
that what is malformed is answered INVALID_ARGUMENT and not by gRPC's own words.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio
from tritonclient.grpc import model_config_pb2, service_pb2

from serving.errors import Code, MeshError, NotSupported
from serving.python_deployment.codec import parse
from serving.python_deployment.failure import at_edge, status_text
from serving.python_deployment.inference import Inference, Metadata
from serving.python_deployment.request import Tensor
from serving.python_deployment.stream import ModelStream
from serving.version import VERSION

SERVICE: Final = "inference.GRPCInferenceService"
PLATFORM: Final = "mesh_python"
_STATUS: Final = {code.value[0]: code for code in grpc.StatusCode}
_NO_METHOD: Final = "this deployment has no {}: it is one model, without shared memory, repository or settings"

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
Handler = Callable[[bytes, Context], Awaitable[bytes]]


class KServeService:
    """The handlers. `ready` says whether new work is taken, `platform` what computes the model."""

    def __init__(self, inference: Inference, ready: Callable[[], bool], *, platform: str = PLATFORM) -> None:
        self._inference = inference
        self._ready = ready
        self._platform = platform

    def handlers(self) -> grpc.GenericRpcHandler[bytes, bytes]:
        """For `grpc.aio.Server.add_generic_rpc_handlers`."""
        own: dict[str, Handler] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ServerMetadata": self._server_metadata,
            "ModelReady": self._model_ready,
            "ModelMetadata": self._model_metadata,
            "ModelConfig": self._model_config,
            "ModelStatistics": self._model_statistics,
            "RepositoryIndex": self._repository_index,
            "ModelInfer": self._model_infer,
        }
        methods: dict[str, Any] = {}
        for method in service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods:
            handler = own.get(method.name) or _missing(method.name)
            methods[method.name] = grpc.unary_unary_rpc_method_handler(self._unary(method.name, handler))
        methods["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(self._model_stream_infer)
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    def _unary(self, name: str, handler: Handler) -> Callable[[bytes, Context], Awaitable[bytes]]:
        async def answer(data: bytes, context: Context) -> bytes:
            started = time.perf_counter()
            failure: MeshError | None = None
            code = Code.OK
            try:
                return await handler(data, context)
            except asyncio.CancelledError:  # by the client, or by its deadline
                code = Code.DEADLINE_EXCEEDED if left_s(context) == 0 else Code.CANCELLED
                raise
            except Exception as error:  # noqa: BLE001 - the edge: it becomes a status
                failure = at_edge(error, name)
                code = failure.code
            finally:
                self._inference.instruments.count(name, code, time.perf_counter() - started)
            await abort(context, failure)
            return b""

        return answer

    # ------------------------------------------------------------------------------------------------ inference

    async def _model_infer(self, data: bytes, context: Context) -> bytes:
        instruments = self._inference.instruments
        with self._inference.admit() as place:
            instruments.request_bytes.inc(len(data))
            request = self._inference.read(data, metadata_of(context), left_s(context))
            if self._inference.model.streams:
                raise NotSupported("ModelInfer RPC doesn't support models with decoupled transaction policy")
            answer = await self._inference.answer(place, request)
            instruments.response_bytes.inc(len(answer))
            return answer

    async def _model_stream_infer(self, _: object, context: Context) -> None:
        started = time.perf_counter()
        stream = ModelStream(self._inference, context)
        code = Code.CANCELLED
        try:
            failure = await stream.run()
            code = Code.OK if failure is None else failure.code
        finally:
            self._inference.instruments.count("ModelStreamInfer", code, time.perf_counter() - started)
        if failure is not None:
            await abort(context, failure)

    # ------------------------------------------------------------------------------------------------ about it

    async def _server_live(self, data: bytes, _: Context) -> bytes:
        parse(data, service_pb2.ServerLiveRequest)
        return _encoded(service_pb2.ServerLiveResponse(live=True))

    async def _server_ready(self, data: bytes, _: Context) -> bytes:
        parse(data, service_pb2.ServerReadyRequest)
        return _encoded(service_pb2.ServerReadyResponse(ready=self._ready()))

    async def _server_metadata(self, data: bytes, _: Context) -> bytes:
        parse(data, service_pb2.ServerMetadataRequest)
        extensions = ["model_configuration", "statistics", "parameters"]
        return _encoded(service_pb2.ServerMetadataResponse(name=self._platform, version=VERSION, extensions=extensions))

    async def _model_ready(self, data: bytes, _: Context) -> bytes:
        request = parse(data, service_pb2.ModelReadyRequest)
        signature = self._inference.model.signature
        known = request.name == signature.model and request.version in ("", signature.version)
        return _encoded(service_pb2.ModelReadyResponse(ready=known and self._ready()))

    async def _model_metadata(self, data: bytes, _: Context) -> bytes:
        request = parse(data, service_pb2.ModelMetadataRequest)
        self._inference.check_model(request.name, request.version)
        signature = self._inference.model.signature
        made = service_pb2.ModelMetadataResponse(
            name=signature.model, versions=[signature.version], platform=self._platform
        )
        for target, tensors in ((made.inputs, signature.inputs), (made.outputs, signature.outputs)):
            for tensor in tensors:
                target.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        return _encoded(made)

    async def _model_config(self, data: bytes, _: Context) -> bytes:
        request = parse(data, service_pb2.ModelConfigRequest)
        self._inference.check_model(request.name, request.version)
        signature = self._inference.model.signature
        config = model_config_pb2.ModelConfig(name=signature.model, backend=self._platform)
        config.model_transaction_policy.decoupled = self._inference.model.streams
        for tensor in signature.inputs:
            made = config.input.add(name=tensor.name, data_type=_config_type(tensor), dims=tensor.shape)
            made.optional = tensor.optional
        for tensor in signature.outputs:
            config.output.add(name=tensor.name, data_type=_config_type(tensor), dims=tensor.shape)
        return _encoded(service_pb2.ModelConfigResponse(config=config))

    async def _model_statistics(self, data: bytes, _: Context) -> bytes:
        request = parse(data, service_pb2.ModelStatisticsRequest)
        signature, seen = self._inference.model.signature, self._inference.instruments.statistics
        if request.name:
            self._inference.check_model(request.name, request.version)
        made = service_pb2.ModelStatisticsResponse()
        row = made.model_stats.add(
            name=signature.model,
            version=signature.version,
            last_inference=seen.last_ms,
            inference_count=seen.success.count,
            execution_count=seen.success.count,
        )
        for target, tally in ((row.inference_stats.success, seen.success), (row.inference_stats.fail, seen.fail)):
            target.count, target.ns = tally.count, tally.ns
        return _encoded(made)

    async def _repository_index(self, data: bytes, _: Context) -> bytes:
        parse(data, service_pb2.RepositoryIndexRequest)
        signature = self._inference.model.signature
        made = service_pb2.RepositoryIndexResponse()
        state = "READY" if self._ready() else "UNAVAILABLE"
        made.models.add(name=signature.model, version=signature.version, state=state)
        return _encoded(made)


async def abort(context: Context, failure: MeshError) -> None:
    await context.abort(_STATUS[int(failure.code)], status_text(failure.message))


def metadata_of(context: Context) -> Metadata:
    return tuple((str(name), value) for name, value in context.invocation_metadata() or ())


def left_s(context: Context) -> float | None:
    """Until the call's deadline; None without one."""
    left = context.time_remaining()
    return None if left is None else max(0.0, float(left))


def _missing(name: str) -> Handler:
    async def refuse(_data: bytes, _context: Context) -> bytes:
        raise NotSupported(_NO_METHOD.format(name))

    return refuse


def _config_type(tensor: Tensor) -> int:
    name = "STRING" if tensor.datatype == "BYTES" else tensor.datatype
    return int(model_config_pb2.DataType.Value(f"TYPE_{name}"))


def _encoded(message: Any) -> bytes:
    return bytes(message.SerializeToString())
