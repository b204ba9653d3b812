"""A started OpenVINO engine with the model of the examples."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from serving.llm.openvino_engine import OpenVinoEngine

MODEL = Path(__file__).resolve().parents[3] / "examples" / "chat" / "model"


@contextlib.asynccontextmanager
async def started(**options: Any) -> AsyncIterator[OpenVinoEngine]:
    engine = OpenVinoEngine(MODEL, {"threads": 1, "cache_mb": 16, **options})
    await engine.start(lambda _: None)
    try:
        yield engine
    finally:
        await engine.close()
