"""The Ray actor around a broker, with the methods and the life of the Python actor."""

from __future__ import annotations

from serving._proto import records_pb2 as pb
from serving.broker.replica import BrokerReplica
from serving.python_deployment.actor import PythonActor
from serving.python_deployment.settings import read_config


class BrokerActor(PythonActor):
    """Detached and named."""

    def _read(self, config_json: str) -> pb.ReplicaConfig:
        return read_config(config_json, "broker")

    def _made(self, config: pb.ReplicaConfig, node_address: str) -> BrokerReplica:
        return BrokerReplica(config, node_address=node_address, on_drained=self._end_if_terminated)
