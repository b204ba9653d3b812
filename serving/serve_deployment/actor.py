"""The Ray actor around a Serve replica, with the methods and the life of the Python actor."""

from __future__ import annotations

from serving._proto import records_pb2 as pb
from serving.python_deployment.actor import PythonActor
from serving.python_deployment.settings import read_config
from serving.serve_deployment.replica import ServeReplica


class ServeActor(PythonActor):
    """Detached and named. It computes nothing: the application runs in Ray Serve, and outlives this process.

    So SIGTERM ends the process at once: what Ray starts in its place finds the application and goes on.
    """

    def _on_signal(self, _number: int, _frame: object) -> None:
        self._end_process()

    def _read(self, config_json: str) -> pb.ReplicaConfig:
        return read_config(config_json, "serve")

    def _made(self, config: pb.ReplicaConfig, node_address: str) -> ServeReplica:
        import ray

        del node_address  # what listens are Ray Serve's proxies, on their nodes

        context = ray.get_runtime_context()
        return ServeReplica(
            config,
            actor=str(context.get_actor_name()),
            ray_address=str(context.gcs_address),
            ray_namespace=str(context.namespace),
            on_drained=self._end_if_terminated,
        )
