"""How a call ends: results, errors of the tree as gRPC codes, deadlines, and faults with an id."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, TypeVar

import grpc

from serving.errors import Code, DeadlineExceeded, Internal, MeshError
from serving.timeouts import wait_for

_log = logging.getLogger("keeper.service")
T = TypeVar("T")

MAX_CALL_S = 30.0
STALE_METADATA = "mesh-stale-s"  # trailing metadata of answers from memory: seconds since the store last answered
_STATUS = {code.value[0]: code for code in grpc.StatusCode}

Context = grpc.aio.ServicerContext


async def answer(context: Context[Any, Any], method: str, work: Callable[[], Awaitable[T]]) -> T:
    """Runs `work` within the caller's deadline; whatever goes wrong ends the call with one code and one sentence."""
    left = context.time_remaining()
    limit_s = MAX_CALL_S if left is None else min(left, MAX_CALL_S)
    try:
        return await wait_for(work(), limit_s)
    except asyncio.TimeoutError:
        await abort(context, DeadlineExceeded(f"{method} took longer than {limit_s:.1f} s; it may have been done"))
    except Exception as error:  # noqa: BLE001 - the edge: nothing may leave as a trace
        await abort(context, as_mesh_error(error, method))


def as_mesh_error(error: Exception, method: str) -> MeshError:
    """The error itself if it is one of the tree; else an `Internal` whose id stands in the log beside the trace."""
    if isinstance(error, MeshError):
        return error
    fault = uuid.uuid4().hex[:12]
    _log.error("unexpected failure", extra={"method": method, "fault": fault}, exc_info=error)
    return Internal(f"internal error {fault} in {method}; the keeper's log has the details")


async def abort(context: Context[Any, Any], error: MeshError) -> NoReturn:
    """Ends the call with the error's code and message."""
    code = error.code if error.code is not Code.OK else Code.INTERNAL
    await context.abort(_STATUS[int(code)], error.message)
    raise error


def mark_stale(context: Context[Any, Any], stale_s: float) -> None:
    """Says of an answer for how long what it tells has been stale; nothing where it is not (0.0)."""
    if stale_s > 0:
        context.set_trailing_metadata(((STALE_METADATA, f"{stale_s:.3f}"),))
