"""The contracts of engines and guides, kept by vLLM."""

from __future__ import annotations

from tests.support.engine_contract import EngineContract
from tests.support.guide_contract import GuideContract


class TestVllmContract(EngineContract):
    RACES = 200


class TestVllmGuides(GuideContract):
    pass
