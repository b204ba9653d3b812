"""The calls of Ray Serve. Blocking; used by the driver only, whose Ray job is its own.

Ray Serve's actors are classes that it makes as it runs. In a job with a code search path, as the mesh's agents and
everything below them have one for C++ actors, Ray looks classes up by their names in modules and does not find these.
So Serve is started and used by a process that joins the cluster by itself.
"""

from __future__ import annotations

import importlib
import logging
import sys
from pathlib import Path
from types import FunctionType
from typing import Any, Final

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve._private.api import call_user_app_builder_with_args_if_necessary
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
from ray.serve.exceptions import RayServeException

from serving.errors import FailedPrecondition, Unavailable
from serving.local.ports import free_ports
from serving.python_deployment.entry import import_entry
from serving.python_deployment.failure import described
from serving.serve_deployment.entry_points import ServeOptions, entry_points, missing_functions
from serving.serve_deployment.orders import Order
from serving.serve_deployment.verdict import Sight, sight_of

_LOG: Final = logging.getLogger(__name__)
_CALL_S: Final = 10.0
_START_ATTEMPTS: Final = 3


def join(order: Order) -> None:
    """Joins the cluster. What the driver brings is what the application's processes get."""
    environment: dict[str, Any] = {"env_vars": dict(order.env)} if order.env else {}
    if order.folder:
        environment["working_dir"] = order.folder
    ray.init(
        address=order.ray_address,
        namespace=order.ray_namespace,
        runtime_env=environment,
        log_to_driver=False,
        configure_logging=False,
    )


def start(order: Order) -> None:
    """Starts Serve where it does not run.

    Raises `Unavailable` when it may work later, `FailedPrecondition` when what runs is not what is needed, or would not
    work: an instance is not started again, so it must not be started with what its proxies fail on.
    """
    _check_functions(order.grpc_functions)
    _check_files(order.tls_key, order.tls_cert, order.tls_ca)
    for attempt in range(1, _START_ATTEMPTS + 1):
        http_port, grpc_port = free_ports(2)
        http: dict[str, Any] = {"host": order.http_host, "port": http_port}
        if order.tls_cert:
            http |= {"ssl_keyfile": order.tls_key, "ssl_certfile": order.tls_cert}
            http |= {"ssl_ca_certs": order.tls_ca} if order.tls_ca else {}
        grpc = {"port": grpc_port, "grpc_servicer_functions": list(order.grpc_functions)}
        if order.grpc_functions:
            _LOG.info("Ray Serve's gRPC proxies listen on every address", extra={"port": grpc["port"]})
        try:
            serve.start(proxy_location="EveryNode", http_options=http, grpc_options=grpc)
            break
        except (RayServeException, RayError, ValueError, TimeoutError) as error:  # somebody else starts it just now
            if attempt == _START_ATTEMPTS:
                raise Unavailable(f"Ray Serve does not start: {described(error)}") from error
            _LOG.warning("Ray Serve not started yet", extra={"error": described(error)})
    refusal = missing_functions(order.grpc_functions, options())
    if refusal:
        raise FailedPrecondition(refusal)


def _check_functions(functions: tuple[str, ...]) -> None:
    """As Serve's proxies import them: without the application's code, which is not there yet."""
    for name in functions:
        module, _, attribute = name.rpartition(".")
        try:
            found = getattr(importlib.import_module(module), attribute)
        except Exception as error:
            raise FailedPrecondition(
                f"the gRPC function {name} cannot be imported where Ray Serve runs: {described(error)}; it must be "
                "installed in the cluster"
            ) from error
        if not callable(found):
            raise FailedPrecondition(f"{name} is a {type(found).__name__}, not a function `add_..._to_server`")


def _check_files(*paths: str) -> None:
    for path in filter(None, paths):
        try:
            Path(path).open("rb").close()
        except OSError as error:
            raise FailedPrecondition(f"the TLS file {path} cannot be read: {error.strerror}") from error


def options() -> ServeOptions:
    """Raises `Unavailable`."""
    http, grpc = _ask("get_http_config"), _ask("get_grpc_config")
    location = str(getattr(_ask("get_proxy_location"), "value", ""))
    functions = tuple(grpc.grpc_servicer_functions)
    return ServeOptions(
        http_host="" if location in ("Disabled", "NoServer") else http.host or "",
        http_port=http.port,
        http_tls=bool(http.ssl_certfile),
        grpc_port=grpc.port,
        grpc_functions=functions,
    )


def look(order: Order) -> Sight:
    """Raises `Unavailable` when Serve does not answer."""
    try:
        details = _ask("get_serve_instance_details")
    except _NoServe:
        return Sight("", "Ray Serve does not run")
    node = str(ray.get_runtime_context().get_node_id())
    points = entry_points(details.get("proxies") or {}, options(), node, bool(order.grpc_functions))
    return sight_of(details, order.application, points)


def applications() -> list[str]:
    """Names of all of them, also of others. Raises `Unavailable`."""
    try:
        return list(_ask("get_serve_instance_details").get("applications") or {})
    except _NoServe:
        return []


def deploy(order: Order, application: Any) -> None:
    """Hands it to Serve; returns before it runs. Raises `FailedPrecondition`."""
    target = serve.RunTarget(application, name=order.application, route_prefix=order.route_prefix)
    try:
        serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
    except TimeoutError as error:  # a proxy that is not ready yet: the application is deployed
        _LOG.warning("a proxy of Ray Serve is not ready", extra={"error": described(error)})
    except Exception as error:
        raise FailedPrecondition(f"Ray Serve does not take {order.import_path}: {described(error)}") from error


def delete(application: str) -> None:
    """Has Serve drain it and take it away; returns before that is done. Nothing else of Serve is touched."""
    try:
        _ask("delete_apps", [application])
    except _NoServe:
        return


def build(order: Order) -> Any:
    """The user's application. Runs the user's code. Raises `FailedPrecondition`."""
    if order.folder:
        sys.path.insert(0, order.folder)
    found = import_entry(order.import_path)
    if not isinstance(found, serve.Application | FunctionType):
        kind = type(found).__name__
        raise FailedPrecondition(
            f"{order.import_path} is a {kind}, not an application (`Deployment.bind()`) or a function that builds one"
        )
    try:
        return call_user_app_builder_with_args_if_necessary(found, dict(order.args))
    except Exception as error:
        raise FailedPrecondition(f"building {order.import_path} failed: {described(error)}") from error


class _NoServe(Unavailable):
    """Nobody has started Serve in this cluster, or somebody has shut it down."""


def _ask(method: str, *arguments: object) -> Any:
    try:
        controller = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
    except ValueError as error:
        raise _NoServe("Ray Serve does not run") from error
    try:
        return ray.get(getattr(controller, method).remote(*arguments), timeout=_CALL_S)
    except (RayError, TimeoutError) as error:
        raise Unavailable(f"Ray Serve's controller does not answer {method}: {described(error)}") from error
