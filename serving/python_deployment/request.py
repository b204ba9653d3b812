"""What a user's class is given and may answer."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import ArrayLike

from serving.errors import InvalidArgument
from serving.sdk.tensors import BF16, DATATYPES, Array, Parameter


@dataclass(frozen=True, slots=True)
class Tensor:
    """A declared input or output: `datatype` as KServe v2 names it (`"FP32"`), -1 in `shape` is any length.

    A class that declares `inputs` is never called with others than these.
    """

    name: str
    datatype: str
    shape: Sequence[int] = (-1,)
    optional: bool = False

    def __post_init__(self) -> None:
        if self.datatype not in DATATYPES:
            raise InvalidArgument(f"tensor {self.name}: {self.datatype!r} is no datatype ({', '.join(DATATYPES)})")


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One inference request.

    `inputs` are read-only arrays by name; BYTES are object arrays of `bytes`. `outputs` are the names that were asked
    for, empty is all. `deadline` is in seconds of `time.monotonic()`, None without one.
    """

    model: str
    inputs: Mapping[str, Array]
    version: str = ""
    id: str = ""
    outputs: tuple[str, ...] = ()
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    metadata: tuple[tuple[str, str | bytes], ...] = ()
    deadline: float | None = None
    traceparent: str = ""
    _cancelled: threading.Event = field(default_factory=threading.Event, repr=False)
    _calls: list[Future[Any]] = field(default_factory=list, repr=False)  # that blocking code waits for

    def __getitem__(self, name: str) -> Array:
        """The input of that name. Raises `InvalidArgument`, which the client is answered, when there is none."""
        try:
            return self.inputs[name]
        except KeyError:
            given = ", ".join(self.inputs) or "none"
            raise InvalidArgument(f"input {name} of model {self.model} is missing (given: {given})") from None

    @property
    def left_s(self) -> float | None:
        """Seconds until the deadline, at least 0; None without one."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    @property
    def cancelled(self) -> bool:
        """True when nobody waits for the answer any more. For blocking code, which cannot be interrupted."""
        return self._cancelled.is_set()

    def give_up(self) -> None:
        """By the replica: nobody waits for the answer any more."""
        self._cancelled.set()
        for call in list(self._calls):
            call.cancel()

    @contextlib.contextmanager
    def cancels(self, call: Future[Any]) -> Iterator[None]:
        """For the block: the call ends when nobody waits for the answer any more."""
        self._calls.append(call)
        try:
            if self.cancelled:  # it may have been given up just before
                call.cancel()
            yield
        finally:
            self._calls.remove(call)


@dataclass(frozen=True, slots=True)
class Response:
    """An answer with parameters; a bare mapping of arrays is the same without."""

    outputs: Mapping[str, ArrayLike | BF16]
    parameters: Mapping[str, Parameter] = field(default_factory=dict)


current_request: ContextVar[Request | None] = ContextVar("current_request", default=None)
"""The request that the code works for: handles take its deadline and trace from here."""
