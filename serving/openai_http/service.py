"""What the HTTP server must know of the model that it serves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from serving.errors import Code
from serving.openai.errors import ModelNotFound


class ModelService(Protocol):
    """One model in one replica. `names` are those by which it may be asked for, `replica` says who answers."""

    @property
    def model(self) -> str: ...

    @property
    def names(self) -> tuple[str, ...]: ...

    @property
    def replica(self) -> str: ...

    @property
    def revision(self) -> str: ...

    @property
    def created(self) -> int:
        """Unix time in seconds."""
        ...

    @property
    def context_tokens(self) -> int:
        """The most that it reads in one request, or of one text."""
        ...

    @property
    def max_body_bytes(self) -> int: ...

    @property
    def write_timeout_s(self) -> float:
        """A client that takes nothing of its answer for so long is given up."""
        ...

    @property
    def failure(self) -> str:
        """Why it cannot answer; empty while it can."""
        ...

    def draining(self) -> bool: ...

    def count(self, method: str, code: Code, seconds: float, *, batch: bool = False) -> None:
        """One call that has ended; `batch`: of that class."""


def check_model(service: ModelService, name: str | None) -> None:
    """Raises `ModelNotFound`."""
    if name is not None and name not in service.names:
        raise ModelNotFound(name, service.model)


def named_ignored(names: list[str]) -> Mapping[str, Any]:
    """The header that tells which fields of a request meant nothing."""
    safe = [name for name in names if name.isascii() and name.isprintable() and "," not in name][:20]
    return {"x-mesh-ignored": ", ".join(name[:64] for name in safe)} if safe else {}
