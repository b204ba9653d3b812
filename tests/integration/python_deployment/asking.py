"""Requests as tritonclient makes them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import tritonclient.grpc.aio as triton
from numpy.typing import NDArray
from tritonclient.utils import np_to_triton_dtype


def tensor(name: str, values: NDArray[Any]) -> triton.InferInput:
    made = triton.InferInput(name, list(values.shape), np_to_triton_dtype(values.dtype))
    made.set_data_from_numpy(values)
    return made


def inputs(**arrays: NDArray[Any]) -> list[triton.InferInput]:
    return [tensor(name, values) for name, values in arrays.items()]


def floats(*values: float) -> NDArray[np.float32]:
    return np.array(values, dtype=np.float32)


async def ask(client: triton.InferenceServerClient, do: str = "", model: str = "it", **more: Any) -> Any:
    """One request without inputs whose parameters say what to do."""
    parameters = {"do": do, **more.pop("parameters", {})} if do else more.pop("parameters", None)
    return await client.infer(model, more.pop("inputs", []), parameters=parameters, **more)


async def until(look: Callable[[], bool | Awaitable[bool]], *, timeout_s: float = 120.0) -> None:
    """Returns when it is true; an `AssertionError` when it does not become so."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = look()
        if found if isinstance(found, bool) else await found:
            return
        assert time.monotonic() < deadline, "it did not come true"
        await asyncio.sleep(0.01)


async def waits_are(client: triton.InferenceServerClient, expected: list[int]) -> bool:
    """Of the class `Waits`: how many wait, and how many were cancelled."""
    return bool((await ask(client, "count")).as_numpy("counts").tolist() == expected)
