"""Names, entry points, orders and records of Serve replicas."""

from __future__ import annotations

import pytest

from serving._proto import records_pb2 as pb
from serving.errors import FailedPrecondition, InvalidArgument
from serving.serve_deployment import names, orders, settings
from serving.serve_deployment.entry_points import ServeOptions, entry_points, missing_functions
from serving.serve_deployment.orders import Order
from serving.serve_deployment.verdict import EntryPoint, Sight
from serving.store.keys import AppKey

OPTIONS = ServeOptions("127.0.0.1", 8000, grpc_port=9000, grpc_functions=("a.add_A_to_server",))
PROXIES = {"n2": {"status": "HEALTHY", "node_ip": "10.0.0.2"}, "n1": {"status": "HEALTHY", "node_ip": "10.0.0.1"}}


def config(**more: object) -> pb.ReplicaConfig:
    return pb.ReplicaConfig(
        id="web-r2-0",
        namespace="team",
        application="shop",
        deployment="web",
        generation=3,
        revision=2,
        labels={"tier": "gold"},
        serve=pb.ServeDeployment(import_path="m:app"),
        **more,  # type: ignore[arg-type]
    )


def order(**more: object) -> Order:
    return settings.order_of(config(**more), actor="replica:x", pid=7, ray_address="h:1", ray_namespace="mesh-mesh")


def test_the_name_says_whose_it_is() -> None:
    name = names.application_name("mesh-mesh", config())
    assert name == "mesh-mesh.team.shop.g3.web-r2-0"
    replica = names.actor_name("mesh-mesh", name)
    assert replica is not None
    assert str(replica) == "replica:team/shop:g3:web-r2-0"
    assert replica.app == AppKey("team", "shop")


@pytest.mark.parametrize("name", ["default", "mesh-other.team.shop.g3.web-r2-0", "mesh-mesh.team.shop.g3.web", "a.b"])
def test_what_others_deployed_is_nobodys(name: str) -> None:
    assert names.actor_name("mesh-mesh", name) is None


def test_prefixes_differ_with_what_is_deployed() -> None:
    plain = names.route_prefix("mesh-mesh", config())
    assert plain.startswith("/mesh-mesh/team/shop/g3/web-r2-0/")
    assert plain == names.route_prefix("mesh-mesh", config())
    assert plain != names.route_prefix("mesh-mesh", config(env={"A": "b"}))


def test_an_entry_point_is_that_of_a_healthy_proxy_and_rather_of_the_own_node() -> None:
    grpc = EntryPoint("serve-grpc", "10.0.0.2", 9000)
    http = EntryPoint("http", "127.0.0.1", 8000)
    assert entry_points(PROXIES, OPTIONS, "n2", wants_grpc=True) == (http, grpc)
    assert entry_points(PROXIES, OPTIONS, "n3", wants_grpc=True)[1].host == "10.0.0.1"
    assert entry_points(PROXIES, OPTIONS, "n2", wants_grpc=False) == (http,)
    sick = {"n2": {"status": "UNHEALTHY", "node_ip": "10.0.0.2"}}
    assert entry_points(sick, OPTIONS, "n2", wants_grpc=True) == ()


def test_what_listens_everywhere_is_reached_at_its_node() -> None:
    everywhere = ServeOptions("0.0.0.0", 8000, http_tls=True)
    assert entry_points(PROXIES, everywhere, "n2", wants_grpc=False) == (EntryPoint("http", "10.0.0.2", 8000, True),)
    assert entry_points(PROXIES, ServeOptions("", 0), "n2", wants_grpc=False) == ()


def test_functions_that_serve_was_started_without_are_named() -> None:
    assert missing_functions(["a.add_A_to_server"], OPTIONS) == ""
    assert "without the gRPC functions b.add_B_to_server (it has a.add_A_to_server)" in missing_functions(
        ["a.add_A_to_server", "b.add_B_to_server"], OPTIONS
    )
    assert "(it has none)" in missing_functions(["b.f"], ServeOptions("h", 1))


def test_orders_and_sights_pass_a_pipe() -> None:
    made = order(env={"A": "ü"})
    assert Order.from_line(made.to_line()) == made
    sight = Sight("RUNNING", "a\nb", "/x", (EntryPoint("http", "h", 1, True),))
    assert orders.read_line(orders.sight_line(sight)) == sight
    assert orders.read_line(orders.failure_line("no\nway")) == "no\nway"
    assert orders.failure_line("no\nway").count(b"\n") == 1
    for line in (b"hello\n", b"{}\n", b"[]\n", b'{"sight": {"status": 1, "x": 2}}\n'):
        with pytest.raises(InvalidArgument):
            orders.read_line(line)
        with pytest.raises(InvalidArgument):
            Order.from_line(line)


def test_each_entry_point_is_a_record_of_the_replica() -> None:
    made = order()
    http = settings.endpoint(config(), made, EntryPoint("http", "h", 8000), "node")
    grpc = settings.endpoint(config(), made, EntryPoint("serve-grpc", "h", 9000), "node")
    assert (http.id, grpc.id) == ("web-r2-0", "web-r2-0-grpc")
    assert (http.replica, grpc.replica, http.pid, http.revision) == ("web-r2-0", "web-r2-0", 7, 2)
    assert dict(http.labels) == {
        "tier": "gold",
        "serve.route_prefix": made.route_prefix,
        "serve.application": made.application,
    }
    advertised = config(advertise_host="edge.example")
    assert settings.endpoint(advertised, made, EntryPoint("http", "h", 8000), "n").address == "edge.example:8000"


def test_grpc_with_tls_is_refused() -> None:
    wanted = config(serving_tls=pb.TlsFiles(cert="c", key="k"))
    assert settings.order_of(wanted, actor="a", pid=1, ray_address="", ray_namespace="mesh-m").tls_cert == "c"
    wanted.serve.grpc_servicer_functions.append("a.add_A_to_server")
    with pytest.raises(FailedPrecondition, match="takes no TLS"):
        settings.order_of(wanted, actor="a", pid=1, ray_address="", ray_namespace="mesh-m")
