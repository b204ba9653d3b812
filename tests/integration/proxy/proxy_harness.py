"""A proxy process, and one as a client sees it."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from tests.integration.ingress.kserve_servers import build_folder, series

STOP_S = 60


def proxy_binary() -> Path:
    return build_folder() / "cpp_ext" / "proxy" / "mesh_proxy"


def proxy_config(endpoints: Iterable[str] = (), **changes: Any) -> dict[str, Any]:
    """A ProxyConfig in canonical JSON."""
    known: dict[str, Any] = {
        "id": "grpc-0",
        "namespace": "default",
        "application": "digits",
        "deployment": "grpc",
        "generation": "1",
        "revision": "1",
        "endpoints": list(endpoints),
    }
    return known | changes


class Proxy:
    """A running `mesh_proxy` with a channel to it; it must end with 0."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "proxy.json"
        file.write_text(json.dumps(config))
        self.log = folder / "proxy.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen([str(proxy_binary()), str(file)], stdout=subprocess.PIPE, stderr=log)
        line = self.process.stdout.readline() if self.process.stdout else b""
        if not line:
            raise AssertionError(f"the proxy did not start ({self.process.wait()}):\n{self.log.read_text()}")
        said = json.loads(line)
        self.address: str = said["address"]
        self.metrics_address: str = said["metricsAddress"]
        options = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
        self.channel: Any = grpc.insecure_channel(self.address, options=options)
        self.stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(self.channel)

    def metric(self, name: str) -> float:
        """The sum of a metric's series; `name` may go on with labels."""
        return sum(series(self.metrics_address, name))

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def close(self) -> None:
        self.channel.close()
        if self.process.poll() is None:
            self.terminate()
        try:
            self.process.wait(STOP_S)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            if self.process.stdout is not None:
                self.process.stdout.close()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
        if error is None and self.process.returncode != 0:
            raise AssertionError(f"exit status {self.process.returncode}:\n{self.log.read_text()[-4000:]}")


def who(answer: pb.ModelInferResponse) -> str:
    """Which of the test's servers answered."""
    return str(answer.parameters["replica"].string_param)


def infer(model: str = "digits", request_id: str = "") -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=model, id=request_id, raw_input_contents=[bytes(16)])
    request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    return request
