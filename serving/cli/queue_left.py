"""What is told, and done, about the requests that brokers keep when their application is deleted."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

import click

from serving.errors import DeadlineExceeded, FailedPrecondition, MeshError

if TYPE_CHECKING:
    from serving.sdk import AsyncMeshClient, QueueStatistics
    from serving.store.keys import AppKey

_ASK_S: Final = 5.0
_LONGEST_S: Final = 3600.0  # that brokers take
_STAY: Final = (
    "their journals stay on their nodes: an application of the same name finds them, "
    "and `mesh queue journals` on such a node shows them"
)


class Removal:
    """Around the deletion of an application.

    With `discard` its brokers remove their journals as they leave. Where that cannot be arranged nothing is deleted;
    where the deletion fails it is taken back.
    """

    def __init__(self, client: AsyncMeshClient, app: AppKey, *, discard: bool, timeout_s: float) -> None:
        self._client = client
        self._app = app
        self._discard = discard
        self._timeout_s = timeout_s
        self._rows: tuple[QueueStatistics, ...] = ()
        self._unknown = ""

    async def __aenter__(self) -> Removal:
        if not await self._has_broker():
            return self
        try:
            self._rows = await self._client.queue.statistics(self._app, timeout_s=_ASK_S)
            if self._discard:
                discard_s = min(max(self._timeout_s, 1.0), _LONGEST_S)
                await self._client.queue.drain(self._app, discard_s=discard_s, timeout_s=_ASK_S)
        except MeshError as error:
            self._unknown = error.message
            if self._discard:
                await self._take_back()
                raise FailedPrecondition(
                    f"the brokers of {self._app} do not all answer, so their journals cannot be removed: "
                    f"{error.message}; nothing was deleted: try it later, or without --queues"
                ) from error
        return self

    async def __aexit__(
        self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None
    ) -> None:
        if error is not None and self._discard and not isinstance(error, DeadlineExceeded):  # else it goes on
            await self._take_back()

    async def _has_broker(self) -> bool:
        revisions = await self._client.revisions(self._app)
        return any(one.HasField("broker") for stored in revisions[:1] for one in stored.spec.deployments)

    async def _take_back(self) -> None:
        """Of those that are still there; the others, and those that do not answer, forget it within the time."""
        for broker, drained in {row.broker: row.drained for row in self._rows}.items():
            try:
                await self._client.queue.drain(self._app, broker, undo=not drained, timeout_s=_ASK_S)
            except MeshError as error:
                text = f"{broker} could not be told to keep its journals: {error.message}"
                click.echo(text, err=True)

    # ------------------------------------------------------------------------------------------------ what is told

    @property
    def _live(self) -> int:
        return sum(row.queued + row.running for row in self._rows)

    @property
    def _dead(self) -> int:
        return sum(row.dead for row in self._rows)

    def shape(self) -> dict[str, Any]:
        """As JSON. `live`: items that waited or ran; `unknown`: why that cannot be said."""
        return {"live": self._live, "dead": self._dead, "removed": self._discard, "unknown": self._unknown}

    def lines(self) -> list[str]:
        """Nothing where nothing was kept."""
        if self._unknown:
            return [f"its brokers did not say what they keep ({self._unknown}); {_STAY}"]
        if not self._live and not self._dead:
            return []
        kept = f"its brokers kept {self._live:,} requests that wait or run and {self._dead:,} dead ones"
        return [f"{kept}: they are removed" if self._discard else f"{kept}; {_STAY}"]
