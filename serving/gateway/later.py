"""What clients ask now and fetch later: queued requests, files and batches."""

from __future__ import annotations

from typing import Final

from serving.gateway.batch import service as batch
from serving.gateway.batch.operations import FILES_AND_BATCHES
from serving.gateway.batch.service import FilesAndBatches
from serving.gateway.queued import service as queued
from serving.gateway.queued.asker import Asker
from serving.gateway.queued.background import Background
from serving.gateway.queued.operations import QUEUED
from serving.gateway.queued.service import QueuedRequests

PATHS: Final = queued.PATHS | batch.PATHS  # as metrics name them
LATER: Final = (*QUEUED, *FILES_AND_BATCHES)


class LaterRequests:
    """Belongs to one event loop. `takes` says whether a path is one of these, `answer` answers it."""

    def __init__(self, queued_requests: QueuedRequests, files_and_batches: FilesAndBatches) -> None:
        self._queued = queued_requests
        self._files_and_batches = files_and_batches

    @property
    def background(self) -> Background:
        return self._queued.background

    def takes(self, path: str) -> bool:
        return self._queued.takes(path) or self._files_and_batches.takes(path)

    async def answer(self, asker: Asker) -> None:
        """Raises errors, which become OpenAI's error objects."""
        if self._queued.takes(asker.call.path):
            await self._queued.answer(asker)
        else:
            await self._files_and_batches.answer(asker)
