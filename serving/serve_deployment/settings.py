"""What a Serve replica makes of its `ReplicaConfig`. Pure."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from serving._proto import records_pb2 as pb
from serving.errors import FailedPrecondition
from serving.python_deployment import settings
from serving.serve_deployment import names
from serving.serve_deployment.orders import Order
from serving.serve_deployment.verdict import EntryPoint
from serving.types import ENDPOINT_READY, PROTOCOL_HTTP, ROLE_DIRECT

LABEL_PREFIX: Final = "serve.route_prefix"  # what paths of the HTTP entry point begin with
LABEL_APPLICATION: Final = "serve.application"  # the metadata `application` of calls to the gRPC entry point


def order_of(config: pb.ReplicaConfig, *, actor: str, pid: int, ray_address: str, ray_namespace: str) -> Order:
    """Without its folder. Raises `InvalidArgument`, and `FailedPrecondition` for what Ray Serve cannot do."""
    tls = settings.serving_tls(config)
    functions = tuple(config.serve.grpc_servicer_functions)
    if tls is not None and functions:
        raise FailedPrecondition(
            "the gRPC proxy of Ray Serve takes no TLS, which this cluster's endpoints have: leave "
            "grpc_servicer_functions out"
        )
    return Order(
        actor=actor,
        pid=pid,
        ray_address=ray_address,
        ray_namespace=ray_namespace,
        application=names.application_name(ray_namespace, config),
        route_prefix=names.route_prefix(ray_namespace, config),
        import_path=config.serve.import_path,
        args=settings.read_object(config.serve.args, "serve.args"),
        env=dict(config.env),
        grpc_functions=functions,
        http_host=settings.listen_host(config),
        tls_key=tls.key_file if tls is not None else "",
        tls_cert=tls.cert_file if tls is not None else "",
        tls_ca=tls.ca_file if tls is not None else "",
    )


def environment_of(config: pb.ReplicaConfig) -> pb.ReplicaConfig:
    """The same code and packages as of a Python deployment, for `environment.prepare`."""
    python = pb.PythonDeployment()
    if config.serve.HasField("code"):
        python.code.CopyFrom(config.serve.code)
    if config.serve.HasField("runtime_env"):
        python.runtime_env.CopyFrom(config.serve.runtime_env)
    return pb.ReplicaConfig(id=config.id, cache_dir=config.cache_dir, python=python)


def driver_log(config: pb.ReplicaConfig) -> Path | None:
    """Where the driver, and the user's code as it is imported there, write to: beside the replica's own log."""
    log = settings.log_file(config)
    return log.with_suffix(".driver.log") if log is not None else None


def address_of(config: pb.ReplicaConfig, point: EntryPoint) -> str:
    return settings.joined(config.advertise_host or point.host, point.port)


def endpoint(config: pb.ReplicaConfig, order: Order, point: EntryPoint, node: str) -> pb.Endpoint:
    """The record of one entry point. The replica has one per protocol: the master knows them by `replica`."""
    labels = {**config.labels, LABEL_PREFIX: order.route_prefix, LABEL_APPLICATION: order.application}
    return pb.Endpoint(
        id=config.id if point.protocol == PROTOCOL_HTTP else f"{config.id}-grpc",
        replica=config.id,
        address=address_of(config, point),
        protocol=point.protocol,
        role=ROLE_DIRECT,
        namespace=config.namespace,
        application=config.application,
        deployment=config.deployment,
        cluster=config.cluster,
        node=node,
        labels=labels,
        revision=config.revision,
        generation=config.generation,
        state=ENDPOINT_READY,
        tls=point.tls,
        pid=order.pid,
    )
