"""The user's class: found, constructed, and called in the way that each of its methods wants."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from serving.errors import FailedPrecondition
from serving.python_deployment.codec import Signature
from serving.python_deployment.composition import Composition, current_composition
from serving.python_deployment.entry import import_entry
from serving.python_deployment.failure import described
from serving.python_deployment.inference import Deliver
from serving.python_deployment.request import Request, Tensor, current_request
from serving.python_deployment.user_loop import UserLoop, guarded

MODEL_VERSION: Final = "1"


def load_class(entry: str) -> type:
    """The class `module:Class`. Raises `FailedPrecondition` that says what is wrong with it."""
    found = import_entry(entry)
    if not inspect.isclass(found):
        raise FailedPrecondition(f"{entry} is a {type(found).__name__}, not a class")
    if not callable(getattr(found, "infer", None)):
        raise FailedPrecondition(f"{entry} has no method `infer(self, request)`")
    return found


class UserCode:
    """The constructed object. Its coroutines belong on the user's loop."""

    def __init__(self, instance: Any, loop: UserLoop, model: str, composition: Composition | None) -> None:
        """Raises `FailedPrecondition` when it declares tensors in a wrong way."""
        self._instance = instance
        self._loop = loop
        self._composition = composition
        infer = instance.infer
        self.streams = inspect.isasyncgenfunction(infer) or inspect.isgeneratorfunction(infer)
        self.has_health = callable(getattr(instance, "health", None))
        self._health_thread = ThreadPoolExecutor(1, thread_name_prefix="user-health")  # the others may all be busy
        self.signature = Signature(model, MODEL_VERSION, _declared(instance, "inputs"), _declared(instance, "outputs"))

    async def infer(self, request: Request) -> object:
        """Its one answer."""
        self._enter(request)
        return await self._call(self._instance.infer, request)

    async def stream(self, request: Request, deliver: Deliver, deliver_blocking: Callable[[object], None]) -> None:
        """Passes on each answer as it comes; waits while the client does not read."""
        self._enter(request)
        infer = self._instance.infer
        if inspect.isasyncgenfunction(infer):
            await _pass_on(infer(request), deliver)
        else:
            await self._loop.in_thread(lambda: _pass_on_blocking(infer(request), request, deliver_blocking))

    def _enter(self, request: Request) -> None:
        current_composition.set(self._composition)
        current_request.set(request)

    async def health(self) -> None:
        """From the loop that serves. One that is not `async` runs on its own thread, also beside a blocked loop.

        Raises when it is not well: what its own `health` raised, or `FailedPrecondition` when it answered False.
        """
        health = self._instance.health

        async def awaited() -> object:
            current_composition.set(self._composition)
            return await health()

        def blocking() -> object:
            current_composition.set(self._composition)
            try:
                return guarded(health)
            except (SystemExit, KeyboardInterrupt) as error:  # must not reach the loop that serves
                raise RuntimeError(f"{type(error).__name__}: {error}") from error

        if inspect.iscoroutinefunction(health):
            verdict = await self._loop.run(awaited).result()
        else:
            run = contextvars.copy_context().run
            verdict = await asyncio.get_running_loop().run_in_executor(self._health_thread, run, blocking)
        if verdict is False:
            raise FailedPrecondition("health() answered False")

    async def reconfigure(self, config: Mapping[str, Any]) -> None:
        """Raises `FailedPrecondition` when the class takes no configuration, or what it raised itself."""
        reconfigure = getattr(self._instance, "reconfigure", None)
        if not callable(reconfigure):
            if config:
                raise FailedPrecondition("the spec has a `config`, but the class has no method `reconfigure(config)`")
            return
        current_composition.set(self._composition)
        await self._call(reconfigure, dict(config))

    async def _call(self, method: Callable[[Any], Any], argument: object) -> object:
        if inspect.iscoroutinefunction(method):
            return await method(argument)
        answer = await self._loop.in_thread(lambda: method(argument))
        return await answer if inspect.isawaitable(answer) else answer  # a decorator may hide that it is async


async def construct(
    entry: str, arguments: Mapping[str, Any], loop: UserLoop, model: str, composition: Composition | None = None
) -> UserCode:
    """On the user's loop. Raises `FailedPrecondition` with what the class or its constructor said."""
    kind = load_class(entry)
    current_composition.set(composition)
    try:
        instance = kind(**arguments)
    except Exception as error:
        raise FailedPrecondition(f"constructing {entry} failed: {described(error)}") from error
    return UserCode(instance, loop, model, composition)


async def _pass_on(answers: AsyncIterator[object], deliver: Deliver) -> None:
    try:
        async for answer in answers:
            await deliver(answer)
    finally:
        close = getattr(answers, "aclose", None)
        if close is not None:
            await close()


def _pass_on_blocking(answers: Iterator[object], request: Request, deliver: Callable[[object], None]) -> None:
    try:
        for answer in answers:
            if request.cancelled:
                return
            deliver(answer)
    finally:
        close = getattr(answers, "close", None)
        if close is not None:
            close()


def _declared(instance: Any, name: str) -> tuple[Tensor, ...]:
    found = getattr(instance, name, ())
    if not isinstance(found, list | tuple) or not all(isinstance(item, Tensor) for item in found):
        raise FailedPrecondition(f"`{name}` of the class must be a list of serving.python_deployment.Tensor")
    return tuple(found)
