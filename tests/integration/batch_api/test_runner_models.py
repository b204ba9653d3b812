"""Which models the names of a batch mean at a real etcd, and what is said of a name that nobody serves now."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from serving._proto import records_pb2 as pb
from serving.batch.runner.models import Models
from serving.errors import InvalidArgument, NotFound, PermissionDenied, Unavailable
from serving.gateway.catalog import ModelKey
from serving.store import EtcdClient, keys
from serving.store.keys import AppKey
from serving.store.records import encode
from serving.types import ENDPOINT_READY, PROTOCOL_OPENAI_HTTP, ROLE_DIRECT
from tests.support.batches import order_of


class Deployed:
    """Applications of a namespace of their own, each with a language model."""

    def __init__(self, store: EtcdClient, stack: AsyncExitStack) -> None:
        self.namespace = f"n{secrets.token_hex(4)}"
        self.model = f"m{secrets.token_hex(4)}"
        self._store = store
        self._stack = stack

    async def declared(self, application: str, *, deleting: bool = False, **fields: Any) -> None:
        deployment = pb.DeploymentSpec(name=self.model, llm=pb.LlmDeployment(**fields))
        spec = pb.ApplicationSpec(namespace=self.namespace, name=application, deployments=[deployment])
        stored = pb.StoredSpec(spec=spec, revision=1, deleting=deleting)
        await self._store.put(keys.spec(AppKey(self.namespace, application)), encode(stored))

    async def served(self, application: str) -> None:
        record = pb.Endpoint(
            id=f"{application}-1",
            address="127.0.0.1:1",
            protocol=PROTOCOL_OPENAI_HTTP,
            role=ROLE_DIRECT,
            namespace=self.namespace,
            application=application,
            deployment="d",
            models=[pb.ModelRecord(name=self.model)],
            state=ENDPOINT_READY,
        )
        app = AppKey(self.namespace, application)
        await self._store.put(keys.endpoint(app, ROLE_DIRECT, "d", record.id), encode(record))

    async def route(self, name: str, *models: str) -> None:
        targets = [pb.RouteTarget(model=model, weight=1) for model in models]
        await self._store.put(keys.route(name), encode(pb.RouteRecord(name=name, targets=targets, version=1)))

    async def finds(self, name: str, *, grace_s: float = 0.1, **order: Any) -> dict[str, ModelKey]:
        models = Models(self._store, grace_s=grace_s)
        self._stack.push_async_callback(models.close)
        await models.start()
        return await models.find(order_of(created=time.time(), **order), (name,))

    def key(self, application: str) -> ModelKey:
        return ModelKey(self.namespace, application, self.model)


@pytest.fixture
async def deployed(store: EtcdClient) -> AsyncIterator[Deployed]:
    async with AsyncExitStack() as stack:
        yield Deployed(store, stack)


async def quickly(found: Awaitable[object], error: type[Exception], match: str) -> None:
    """It is said long before the grace is over."""
    with pytest.raises(error, match=match):
        await asyncio.wait_for(found, 120)


async def test_a_model_that_nobody_declares_does_not_exist(deployed: Deployed) -> None:
    await deployed.declared("going", deleting=True)
    with pytest.raises(NotFound, match="does not exist"):
        await deployed.finds(deployed.model)
    await deployed.route(f"r{deployed.model}", str(deployed.key("nowhere")))
    with pytest.raises(NotFound, match="no model of the route"):
        await deployed.finds(f"r{deployed.model}")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(lambda key: key.model, id="model"),
        pytest.param(lambda key: f"{key.application}/{key.model}", id="application"),
        pytest.param(str, id="full"),
    ],
)
async def test_a_model_that_is_declared_is_only_away(deployed: Deployed, name: Callable[[ModelKey], str]) -> None:
    await deployed.declared("chat")
    asked = name(deployed.key("chat"))
    with pytest.raises(Unavailable, match="served by nobody"):
        await deployed.finds(asked)
    with pytest.raises(NotFound):
        await deployed.finds(asked, models=["another"])
    finding = asyncio.create_task(deployed.finds(asked, grace_s=600))
    await deployed.served("chat")
    assert await asyncio.wait_for(finding, 60) == {asked: deployed.key("chat")}


async def test_the_name_that_a_spec_gives_is_what_counts(deployed: Deployed) -> None:
    await deployed.declared("chat", model=f"x{deployed.model}")
    with pytest.raises(Unavailable):
        await deployed.finds(f"x{deployed.model}")
    with pytest.raises(NotFound):
        await deployed.finds(deployed.model)


async def test_a_route_to_a_declared_model_is_waited_for(deployed: Deployed) -> None:
    name = f"r{deployed.model}"
    await deployed.declared("chat")
    await deployed.route(name, str(deployed.key("nowhere")), str(deployed.key("chat")))
    with pytest.raises(Unavailable):
        await deployed.finds(name)


async def test_what_no_time_mends_is_said_at_once(deployed: Deployed) -> None:
    await deployed.served("one")
    mine = f"{deployed.namespace}/another/*"
    await quickly(deployed.finds(deployed.model, grace_s=600, models=[mine]), PermissionDenied, "may not ask")
    await deployed.served("two")
    await quickly(deployed.finds(deployed.model, grace_s=600), InvalidArgument, "several applications")


async def test_a_model_of_ones_own_that_comes_up_beside_that_of_another(deployed: Deployed) -> None:
    await deployed.served("one")
    await deployed.declared("mine")
    own = f"{deployed.namespace}/mine/*"
    with pytest.raises(Unavailable):
        await deployed.finds(deployed.model, models=[own])
    finding = asyncio.create_task(deployed.finds(deployed.model, grace_s=600, models=[own]))
    await deployed.served("mine")
    assert await asyncio.wait_for(finding, 60) == {deployed.model: deployed.key("mine")}
