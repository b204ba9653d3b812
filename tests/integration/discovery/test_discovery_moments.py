"""Everything of discovery that can be left or closed, left and closed at every moment."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from serving._proto import records_pb2 as pb
from serving.discovery import InferenceClient, Registrar, Resolver
from serving.errors import FailedPrecondition, MeshError
from serving.local.etcd import EtcdCluster
from serving.store import AppKey, EtcdClient, keys
from serving.store.records import encode
from tests.support.moments import Moment, at_each, cut, ended

LONG_S = 90.0
_numbers = itertools.count(1)


@pytest.fixture
def app() -> AppKey:
    return AppKey("moments", f"app{next(_numbers)}")


def endpoint(app: AppKey) -> pb.Endpoint:
    return pb.Endpoint(
        id="net-r1-0",
        address="127.0.0.1:8001",
        protocol="kserve-grpc",
        role="direct",
        namespace=app.namespace,
        application=app.name,
        deployment="net",
        state="ready",
        generation=1,
        revision=1,
    )


async def test_a_registrar_can_be_closed_at_any_moment(
    client: EtcdClient, shared_etcd: EtcdCluster, app: AppKey
) -> None:
    async def scenario(moment: Moment) -> None:
        registrar = Registrar(shared_etcd.config(), endpoint(app), ttl_s=30)
        await registrar.start()
        registered = asyncio.create_task(registrar.wait_registered(LONG_S))
        await moment.come(registered)
        await ended(asyncio.create_task(registrar.close()), moment)
        registered.cancel()
        await ended(registered, moment)
        assert await client.get(registrar.key) is None

    await at_each(scenario)


async def test_withdrawing_can_be_left_at_any_moment_and_asked_again(
    client: EtcdClient, shared_etcd: EtcdCluster, app: AppKey
) -> None:
    async def scenario(moment: Moment) -> None:
        registrar = Registrar(shared_etcd.config(), endpoint(app), ttl_s=30)
        await registrar.start()
        await registrar.wait_registered(LONG_S)
        await cut(registrar.withdraw(), moment)
        await registrar.withdraw()
        assert await client.get(registrar.key) is None
        await registrar.close()

    await at_each(scenario)


async def test_a_resolver_can_be_left_and_closed_at_any_moment(client: EtcdClient, app: AppKey) -> None:
    async def scenario(moment: Moment) -> None:
        resolver = Resolver(client, app)
        reader = asyncio.create_task(_read(resolver))
        await cut(resolver.start(wait_s=LONG_S), moment)
        await ended(asyncio.create_task(resolver.close()), moment)
        await ended(reader, moment)
        assert reader.exception() is None

    await at_each(scenario)


async def test_a_resolver_that_starts_hears_that_it_is_closed(client: EtcdClient, app: AppKey) -> None:
    async def scenario(moment: Moment) -> None:
        resolver = Resolver(client, app)
        start = asyncio.create_task(resolver.start(wait_s=LONG_S))
        await moment.come(start)
        await ended(asyncio.create_task(resolver.close()), moment)
        await ended(start, moment)
        assert isinstance(start.exception(), FailedPrecondition | None)

    await at_each(scenario)


async def test_a_client_and_its_requests_can_be_left_at_any_moment(client: EtcdClient, app: AppKey) -> None:
    """Nobody listens at the endpoint: requests wait, try again and wait."""
    record = endpoint(app)
    key = keys.endpoint(app, record.role, record.deployment, record.id)
    await client.put(key, encode(record))
    resolver = Resolver(client, app)
    await resolver.start(wait_s=LONG_S)

    async def scenario(moment: Moment) -> None:
        requests = InferenceClient(resolver)
        await requests.start()
        left = asyncio.create_task(_ask(requests))
        kept = asyncio.create_task(_ask(requests))
        await moment.come(left)
        left.cancel()
        await ended(left, moment)
        assert left.cancelled()
        await ended(asyncio.create_task(requests.close()), moment)
        await ended(kept, moment)
        assert isinstance(kept.exception(), MeshError), repr(kept.exception())

    await at_each(scenario)
    await resolver.close()
    await client.delete(key)


async def _read(resolver: Resolver) -> None:
    async for _ in resolver.subscribe():
        continue


async def _ask(client: InferenceClient) -> None:
    from tritonclient.grpc import service_pb2

    await client.call("ModelReady", service_pb2.ModelReadyRequest(name="net"), timeout_s=LONG_S)
