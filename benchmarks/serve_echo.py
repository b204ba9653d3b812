"""The other side of `proxy_peers`: a Ray Serve deployment that echoes a KServe v2 tensor, and nothing else.

`python -m benchmarks.serve_echo HTTP_PORT GRPC_PORT` deploys it on the cluster of RAY_ADDRESS and ends; it stays. It
answers what perf_analyzer asks before it sends requests, too.
"""

from __future__ import annotations

import sys
from typing import Any, Final

from tritonclient.grpc import model_config_pb2, service_pb2

MODEL: Final = "identity"
_SERVICER: Final = "tritonclient.grpc.service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server"
_MOST_ONGOING: Final = 10_000  # nothing of a benchmark's closed loop waits before the replica


class Echo:
    """`INPUT0`, FP32 of one dimension, comes back as `OUTPUT0`."""

    def __init__(self) -> None:
        self._answered = 0

    async def ModelInfer(self, request: Any) -> Any:  # noqa: N802 - the protocol's names
        self._answered += 1
        tensor = request.inputs[0]
        return service_pb2.ModelInferResponse(
            model_name=request.model_name,
            model_version="1",
            id=request.id,
            outputs=[{"name": "OUTPUT0", "datatype": tensor.datatype, "shape": tensor.shape}],
            raw_output_contents=request.raw_input_contents,
        )

    async def ServerLive(self, request: Any) -> Any:  # noqa: ARG002, N802
        return service_pb2.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any) -> Any:  # noqa: ARG002, N802
        return service_pb2.ServerReadyResponse(ready=True)

    async def ModelReady(self, request: Any) -> Any:  # noqa: ARG002, N802
        return service_pb2.ModelReadyResponse(ready=True)

    async def ServerMetadata(self, request: Any) -> Any:  # noqa: ARG002, N802
        return service_pb2.ServerMetadataResponse(name="ray-serve", version="1", extensions=["statistics"])

    async def ModelMetadata(self, request: Any) -> Any:  # noqa: ARG002, N802
        tensor = service_pb2.ModelMetadataResponse.TensorMetadata
        return service_pb2.ModelMetadataResponse(
            name=MODEL,
            versions=["1"],
            platform="python",
            inputs=[tensor(name="INPUT0", datatype="FP32", shape=[-1])],
            outputs=[tensor(name="OUTPUT0", datatype="FP32", shape=[-1])],
        )

    async def ModelConfig(self, request: Any) -> Any:  # noqa: ARG002, N802
        config = model_config_pb2.ModelConfig(
            name=MODEL,
            input=[{"name": "INPUT0", "data_type": model_config_pb2.TYPE_FP32, "dims": [-1]}],
            output=[{"name": "OUTPUT0", "data_type": model_config_pb2.TYPE_FP32, "dims": [-1]}],
        )
        return service_pb2.ModelConfigResponse(config=config)

    async def ModelStatistics(self, request: Any) -> Any:  # noqa: ARG002, N802
        found = service_pb2.ModelStatistics(name=MODEL, version="1", inference_count=self._answered)
        # perf_analyzer looks at the count of the queue for whether this version answered.
        for part in (found.inference_stats.success, found.inference_stats.queue):
            part.count = self._answered
        return service_pb2.ModelStatisticsResponse(model_stats=[found])


def deploy(http_port: int, grpc_port: int) -> None:
    """One replica behind Serve's ingress; logs of requests are off."""
    import ray
    from ray import serve

    ray.init(log_to_driver=False, logging_level="warning")
    quiet = {"enable_access_log": False, "log_level": "WARNING"}
    serve.start(
        http_options={"host": "127.0.0.1", "port": http_port},
        grpc_options={"port": grpc_port, "grpc_servicer_functions": [_SERVICER]},
        logging_config=quiet,
    )
    echo = serve.deployment(Echo).options(
        num_replicas=1, max_ongoing_requests=_MOST_ONGOING, max_queued_requests=-1, logging_config=quiet
    )
    serve.run(echo.bind(), name="echo")


if __name__ == "__main__":
    # By its importable name, so that the replica imports the class instead of getting a copy of __main__.
    from benchmarks import serve_echo

    serve_echo.deploy(int(sys.argv[1]), int(sys.argv[2]))
