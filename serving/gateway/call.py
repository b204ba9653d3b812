"""One request at a gateway, as far as its path says what it is."""

from __future__ import annotations

from dataclasses import dataclass

from serving._proto import records_pb2 as pb
from serving.gateway.catalog import ModelKey
from serving.openai.errors import InvalidRequest
from serving.wire import Wire


class WrongMethod(InvalidRequest):
    """Of a path that there is."""

    http_status = 405


@dataclass(slots=True)
class Call:
    """`model` is its name where that is known, for metrics: names that clients make up are not. `key`: whose it is."""

    path: str
    method: str
    model: str = ""
    key: pb.ApiKey | None = None

    def want(self, wire: Wire, *methods: str) -> None:
        """Raises `WrongMethod`."""
        if self.method not in methods:
            wire.add_header("allow", ", ".join(methods))
            text = f"{self.path} takes {' or '.join(methods)}, not {self.method}"
            raise WrongMethod(text, error_code="method_not_allowed")

    def ask(self, model: ModelKey) -> None:
        """It is for that model, which is one that there is."""
        self.model = str(model)

    @property
    def tenant(self) -> str:
        """Whose stored answers the request may meet; all who need no key are one."""
        return self.key.tenant if self.key is not None else ""
