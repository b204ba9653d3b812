"""The contract of guides, kept by the OpenVINO engine."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from llm_engine_driver import started

from serving.llm.engine import Engine
from tests.support.guide_contract import GuideContract


class TestOpenVinoGuides(GuideContract):
    @pytest.fixture
    async def engine(self) -> AsyncIterator[Engine]:
        async with started(max_running=8) as engine:
            yield engine
