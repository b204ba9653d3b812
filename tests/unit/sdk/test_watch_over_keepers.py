"""What a watch tells when one keeper takes over from another."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from serving._proto import keeper_pb2 as kpb
from serving.sdk.deploying import Deployer
from serving.sdk.keepers import Keepers


class Told(Keepers):
    """Tells these events, and ends."""

    def __init__(self, events: Sequence[kpb.ApplicationEvent | None]) -> None:
        self._events = events

    async def watch(self, namespace: str, name: str) -> AsyncGenerator[kpb.ApplicationEvent | None, None]:  # noqa: ARG002
        for event in self._events:
            yield event


def seen(name: str, *, deleted: bool = False) -> kpb.ApplicationEvent:
    event = kpb.ApplicationEvent(deleted=deleted)
    event.application.stored.spec.namespace, event.application.stored.spec.name = "default", name
    return event


SYNCED = kpb.ApplicationEvent(synced=True)


async def told(*events: kpb.ApplicationEvent | None) -> list[str]:
    found = []
    async for event in Deployer(Told(events), "").watch("", ""):
        assert event is not None
        found.append(f"{event.status.name} gone" if event.deleted else event.status.name)
    return found


async def test_what_vanished_between_two_keepers_is_told() -> None:
    assert await told(None, seen("a"), seen("b"), SYNCED, None, seen("b"), SYNCED) == ["a", "b", "b", "a gone"]


async def test_also_when_the_first_one_had_told_half_of_its_picture() -> None:
    assert await told(None, seen("a"), None, None, SYNCED) == ["a", "a gone"]


async def test_what_was_told_to_be_gone_is_not_told_again() -> None:
    assert await told(None, seen("a"), SYNCED, seen("a", deleted=True), None, SYNCED) == ["a", "a gone"]
    assert await told(None, seen("a"), seen("a", deleted=True), None, SYNCED) == ["a", "a gone"]
