"""Which engines there are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serving.errors import InvalidArgument
from serving.llm.engine import OPENVINO, VLLM, Engine
from serving.llm.openvino_engine import OpenVinoEngine
from serving.llm.vllm_engine import VllmEngine


def make_engine(name: str, model: Path, options: Mapping[str, Any]) -> Engine:
    """The engine over the model of a folder, not started yet. Raises `InvalidArgument` for options that are wrong."""
    if name == OPENVINO:
        return OpenVinoEngine(model, options)
    if name == VLLM:
        return VllmEngine(model, options)
    raise InvalidArgument(f"there is no engine `{name}`; there are {OPENVINO} and {VLLM}")
