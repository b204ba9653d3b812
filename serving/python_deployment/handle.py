"""`Handle`: another deployment of the same application, as user code calls it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
from collections.abc import Mapping, Sequence
from typing import Final

from numpy.typing import ArrayLike

from serving.discovery.client_trace import child_of
from serving.errors import Cancelled, DeadlineExceeded, FailedPrecondition, ResourceExhausted, Unavailable
from serving.python_deployment.composition import Composition, OutgoingCall, current_composition
from serving.python_deployment.failure import called
from serving.python_deployment.request import current_request
from serving.python_deployment.user_loop import check_not_on_a_loop
from serving.sdk.tensors import BF16, Array, Parameter

DEFAULT_TIMEOUT_S: Final = 30.0
_TRACEPARENT: Final = "traceparent"


class Handle:
    """Calls go straight to a replica of the deployment, with the policy of SDK clients: retries, ejection, drains.

    They carry what is left of the current request's deadline, and its trace.
    """

    def __init__(self, deployment: str, *, model: str = "", timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        """`model` is by default called as the deployment; `timeout_s` bounds calls where the request has no deadline.

        Raises `FailedPrecondition` outside of a Python deployment.
        """
        composition = current_composition.get()
        if composition is None:
            raise FailedPrecondition("a Handle can only be made in the constructor or the methods of a deployment")
        self._composition: Composition = composition
        self._deployment = deployment
        self._model = model or deployment
        self._timeout_s = timeout_s

    async def infer(
        self,
        inputs: Mapping[str, ArrayLike | BF16],
        *,
        outputs: Sequence[str] | None = None,
        parameters: Mapping[str, Parameter] | None = None,
        version: str = "",
        request_id: str = "",
        timeout_s: float | None = None,
        retry_safe: bool = True,
    ) -> dict[str, Array]:
        """The outputs by name. Raises errors of `serving.errors`."""
        call = self._outgoing(inputs, outputs, parameters, version, request_id, timeout_s, retry_safe)
        try:
            return await asyncio.wrap_future(self._composition.submit(call))
        except (Unavailable, ResourceExhausted) as error:
            raise called(error) from error

    def infer_blocking(
        self,
        inputs: Mapping[str, ArrayLike | BF16],
        *,
        outputs: Sequence[str] | None = None,
        parameters: Mapping[str, Parameter] | None = None,
        version: str = "",
        request_id: str = "",
        timeout_s: float | None = None,
        retry_safe: bool = True,
    ) -> dict[str, Array]:
        """The same for methods that are not `async`. Raises `FailedPrecondition` where it would block an event loop."""
        check_not_on_a_loop("Handle.infer_blocking")
        call = self._outgoing(inputs, outputs, parameters, version, request_id, timeout_s, retry_safe)
        future, request = self._composition.submit(call), current_request.get()
        try:
            with request.cancels(future) if request is not None else contextlib.nullcontext():
                return future.result()
        except concurrent.futures.CancelledError:
            raise Cancelled("the caller went away") from None
        except (Unavailable, ResourceExhausted) as error:
            raise called(error) from error

    def _outgoing(
        self,
        inputs: Mapping[str, ArrayLike | BF16],
        outputs: Sequence[str] | None,
        parameters: Mapping[str, Parameter] | None,
        version: str,
        request_id: str,
        timeout_s: float | None,
        retry_safe: bool,
    ) -> OutgoingCall:
        request = current_request.get()
        left_s = request.left_s if request is not None else None
        wanted = timeout_s if timeout_s is not None else left_s if left_s is not None else self._timeout_s
        limit_s = wanted if left_s is None else min(wanted, left_s)
        if limit_s <= 0:
            raise DeadlineExceeded(f"no time is left to call {self._deployment}")
        trace = request.traceparent if request is not None else ""
        return OutgoingCall(
            deployment=self._deployment,
            model=self._model,
            inputs=inputs,
            timeout_s=limit_s,
            version=version,
            outputs=outputs,
            parameters=parameters,
            request_id=request_id,
            retry_safe=retry_safe,
            metadata=((_TRACEPARENT, child_of(trace)),) if trace else (),
        )
