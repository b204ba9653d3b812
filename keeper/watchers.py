"""Streams of changes to clients. A slow client loses steps in between, never the last state; its cost is bounded."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable, Iterable

from keeper import views
from keeper.mirror import Mirror
from keeper.picture import AppState, Touched
from keeper.placement import Liveness
from serving._proto import keeper_pb2 as api
from serving.errors import ResourceExhausted
from serving.store.keys import AppKey


class Watchers:
    """Counts the streams that are open and makes new ones."""

    def __init__(self, mirror: Mirror, liveness: Callable[[], dict[str, Liveness]], max_watchers: int) -> None:
        self._mirror = mirror
        self._liveness = liveness
        self._max = max_watchers
        self.open = 0

    async def watch(self, namespace: str, name: str) -> AsyncGenerator[api.ApplicationEvent, None]:
        """Every matching application, the `synced` mark, then each change. Raises `ResourceExhausted`."""
        if self.open >= self._max:
            raise ResourceExhausted(f"this keeper serves {self._max} watches already; use another one, or poll")
        self.open += 1
        stream = _Stream(self._mirror, self._liveness, namespace, name)
        unlisten = self._mirror.listen(stream.on_change)
        try:
            for event in stream.full_picture():
                yield event
            yield api.ApplicationEvent(synced=True)
            while True:
                for event in await stream.next():
                    yield event
        finally:
            unlisten()
            self.open -= 1


class _Stream:
    """Remembers which applications changed (a set, so bounded), a digest of what was sent of each, and its farewell."""

    def __init__(self, mirror: Mirror, liveness: Callable[[], dict[str, Liveness]], namespace: str, name: str) -> None:
        self._mirror = mirror
        self._liveness = liveness
        self._namespace = namespace
        self._name = name
        self._sent: dict[AppKey, tuple[api.ApplicationView, bytes]] = {}
        self._pending: set[AppKey] = set()
        self._wake = asyncio.Event()

    def on_change(self, touched: Touched) -> None:
        """Marks what may have to be sent."""
        apps = {*touched.apps, *(self._mirror.picture.apps if touched.reshaped else ())}
        self._pending.update(key for key in apps if self._matches(key))
        if self._pending:
            self._wake.set()

    def full_picture(self) -> list[api.ApplicationEvent]:
        keys = {*self._mirror.picture.apps, *self._mirror.remembered}
        return self._events(key for key in sorted(keys) if self._matches(key))

    async def next(self) -> list[api.ApplicationEvent]:
        """Waits for changes and answers the last state of each application that changed."""
        await self._wake.wait()
        self._wake.clear()
        pending, self._pending = sorted(self._pending), set()
        return self._events(pending)

    def _matches(self, key: AppKey) -> bool:
        return self._namespace in ("", key.namespace) and self._name in ("", key.name)

    def _events(self, changed: Iterable[AppKey]) -> list[api.ApplicationEvent]:
        liveness = self._liveness()
        found = (self._event(key, liveness) for key in changed)
        return [event for event in found if event is not None]

    def _event(self, key: AppKey, liveness: dict[str, Liveness]) -> api.ApplicationEvent | None:
        """None when the client has this state already."""
        app = self._state(key)
        if app.spec is None:
            known = self._sent.pop(key, None)
            if known is None:
                return None
            return api.ApplicationEvent(application=known[0], deleted=True)
        view = views.application(app, liveness)
        digest = hashlib.sha256(view.SerializeToString(deterministic=True)).digest()
        last, sent = self._sent.get(key, (None, b""))
        if sent == digest:
            return None
        self._sent[key] = (views.farewell(view, last), digest)
        return api.ApplicationEvent(application=view)

    def _state(self, key: AppKey) -> AppState:
        """What a store lost is not gone: it is being written back."""
        found = self._mirror.picture.app(key)
        return found if found.spec is not None else self._mirror.remembered.get(key, found)
