"""The only door to the package gptcache (0.1.44), which must be made safe before anything of it is imported.

Four of its habits are dealt with here: it runs `pip install` when an optional module is missing, it unpickles a file
`data_map.txt` of the working directory while it is imported, it configures the logging of the whole process, and it
logs questions at level DEBUG.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from types import ModuleType
from typing import Final, NoReturn

from serving.errors import FailedPrecondition

_INSTALLER: Final = "gptcache.utils.dependency_control"
_PICKLE: Final = Path("data_map.txt")


def _refuse_to_install(package: str, warn: bool = False) -> NoReturn:
    del warn
    raise FailedPrecondition(f"gptcache wants to install {package}: the mesh never installs packages while it runs")


def _make_safe() -> None:
    if "gptcache" in sys.modules:
        raise FailedPrecondition("gptcache was imported before serving.cache.gptcache_frame, which makes it safe")
    if _PICKLE.exists():
        raise FailedPrecondition(
            f"{_PICKLE.absolute()} would be unpickled by gptcache: remove it or start in another directory"
        )
    replacement = ModuleType(_INSTALLER)
    replacement.prompt_install = _refuse_to_install  # type: ignore[attr-defined]
    sys.modules[_INSTALLER] = replacement


_make_safe()
_handlers: Final = tuple(logging.root.handlers)

from gptcache import Cache, Config  # noqa: E402
from gptcache.adapter.adapter import adapt  # noqa: E402
from gptcache.manager.data_manager import DataManager  # noqa: E402
from gptcache.manager.scalar_data.base import Answer, CacheData  # noqa: E402
from gptcache.similarity_evaluation.similarity_evaluation import SimilarityEvaluation  # noqa: E402
from gptcache.utils.log import gptcache_log  # noqa: E402

gptcache_log.setLevel(logging.WARNING)
for _handler in set(logging.root.handlers) - set(_handlers):
    logging.root.removeHandler(_handler)

__all__ = ["Answer", "Cache", "CacheData", "Config", "DataManager", "SimilarityEvaluation", "adapt"]
