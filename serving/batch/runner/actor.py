"""The Ray actor around a runner, with the methods and the life of the Python actor."""

from __future__ import annotations

from serving._proto import records_pb2 as pb
from serving.batch.runner.replica import RunnerReplica
from serving.python_deployment.actor import PythonActor
from serving.python_deployment.settings import read_config


class RunnerActor(PythonActor):
    """Detached and named. Its jobs run in the Ray cluster that it belongs to."""

    def _read(self, config_json: str) -> pb.ReplicaConfig:
        return read_config(config_json, "batch")

    def _made(self, config: pb.ReplicaConfig, node_address: str) -> RunnerReplica:
        return RunnerReplica(config, node_address=node_address, on_drained=self._end_if_terminated)
