"""Batch inference: rows of pipelines, and files of requests, with what online traffic leaves free.

See docs/design/0022-batch.md. Names are imported when they are first used: the gateway's part loads no Ray.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from serving.batch.processor import LLMProcessor
    from serving.batch.sending.places import Discovered, Fixed
    from serving.batch.sending.settings import SenderConfig
    from serving.batch.sending.window import WindowConfig
    from serving.batch.stages.settings import ProcessorConfig

_HOME: Final = {
    "Discovered": "sending.places",
    "Fixed": "sending.places",
    "LLMProcessor": "processor",
    "ProcessorConfig": "stages.settings",
    "SenderConfig": "sending.settings",
    "WindowConfig": "sending.window",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


__all__ = ["Discovered", "Fixed", "LLMProcessor", "ProcessorConfig", "SenderConfig", "WindowConfig"]
