"""The code of a deployment in the workers of Ray that its replicas start, perhaps on nodes that do not have it.

Ray imports the class of an actor by its module's name, as the mesh's jobs say where C++ code lies. So each such worker
gets, by variables that it inherits from its replica, an importer that knows where the code is: it fetches it when a
module is wanted that nothing else has.
"""

from __future__ import annotations

import importlib.machinery
import logging
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Final

from serving._proto import records_pb2 as pb
from serving.errors import MeshError
from serving.python_deployment.environment import enter, prepare
from serving.store.records import decode, encode

_LOG: Final = logging.getLogger(__name__)
_CODE: Final = "MESH_DEPLOYMENT_CODE"
_ACTOR: Final = "serving.python_deployment.actor"  # imported by replicas, and only there
_LONGEST_WAIT_S: Final = 600.0
# What Ray's workers call first (`ray._private.ray_constants`); as an option it is known to whole jobs only.
_HOOK: Final = "__RAY_WORKER_PROCESS_SETUP_HOOK_ENV_VAR"


def worker_variables(config: pb.ReplicaConfig) -> Mapping[str, str]:
    """For a replica's environment; the workers that it starts inherit it."""
    needed = pb.ReplicaConfig(cache_dir=config.cache_dir)
    needed.python.code.CopyFrom(config.python.code)
    needed.python.runtime_env.CopyFrom(config.python.runtime_env)
    return {_HOOK: f"{set_up.__module__}.{set_up.__name__}", _CODE: encode(needed).decode()}


def set_up() -> None:
    """Called by Ray in each such worker, and in the replica's, which fetches its code itself."""
    text = os.environ.get(_CODE)
    if text:
        sys.meta_path.append(CodeFinder(decode(pb.ReplicaConfig, text.encode())))


class CodeFinder(MetaPathFinder):
    """Finds what no finder before it has found; from then on the code stands before all others, as in a replica."""

    def __init__(self, config: pb.ReplicaConfig) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._fetching = 0  # the thread that does
        self._entered = False

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        """Raises `ImportError` that says why the code cannot be had; it is tried again for the next module."""
        if path is not None or _ACTOR in sys.modules or self._fetching == threading.get_ident():
            return None  # a part of a package; of a replica; or what fetching itself would like to have
        # Another thread may wait for a module that this one imports: better one that is not found than both for ever.
        if not self._lock.acquire(timeout=_LONGEST_WAIT_S):
            return None
        try:
            if not self._entered:
                self._enter(fullname)
        finally:
            self._lock.release()
        return importlib.machinery.PathFinder.find_spec(fullname)

    def _enter(self, wanted: str) -> None:
        self._fetching = threading.get_ident()
        try:
            enter(prepare(self._config))
        except MeshError as error:
            raise ImportError(f"{wanted}: the deployment's code cannot be had: {error.message}") from error
        finally:
            self._fetching = 0
        self._entered = True
        _LOG.info("the deployment's code is there", extra={"wanted": wanted})
