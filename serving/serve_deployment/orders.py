"""What a Serve replica and its driver tell each other: one JSON object in a line. Pure.

The replica writes an `Order` first, then words; the driver answers with `Sight`s and, once, with why it cannot go on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from serving.errors import InvalidArgument
from serving.serve_deployment.verdict import WAITING, EntryPoint, Sight

DELETE: Final = "delete"  # the application
END: Final = "end"  # leave it as it is


@dataclass(frozen=True, slots=True)
class Order:
    """All that a driver must know. `actor` is our replica's name in Ray, `pid` its process.

    `folder` is what the application's processes have as working directory, and where the driver imports from.
    """

    actor: str
    pid: int
    ray_address: str
    ray_namespace: str
    application: str
    route_prefix: str
    import_path: str
    args: Mapping[str, Any] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    folder: str = ""
    grpc_functions: tuple[str, ...] = ()
    http_host: str = "127.0.0.1"
    tls_key: str = ""
    tls_cert: str = ""
    tls_ca: str = ""

    def to_line(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"

    @staticmethod
    def from_line(line: bytes) -> Order:
        """Raises `InvalidArgument`."""
        try:
            values = json.loads(line)
            return Order(**{**values, "grpc_functions": tuple(values["grpc_functions"])})
        except (ValueError, TypeError, KeyError) as error:
            raise InvalidArgument(f"this is no order of a Serve replica: {error!r}") from error


def sight_line(sight: Sight) -> bytes:
    return json.dumps({"sight": asdict(sight)}).encode() + b"\n"


def waiting_line(reason: str) -> bytes:
    """Serve does not answer, or does not start."""
    return sight_line(Sight(WAITING, reason))


def failure_line(reason: str) -> bytes:
    """The driver ends after it."""
    return json.dumps({"failed": reason}).encode() + b"\n"


def read_line(line: bytes) -> Sight | str:
    """What a driver says: a sight, or why it failed. Raises `InvalidArgument`."""
    try:
        values = json.loads(line)
        if "failed" in values:
            return str(values["failed"])
        sight = values["sight"]
        return Sight(**{**sight, "entry_points": tuple(EntryPoint(**point) for point in sight["entry_points"])})
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidArgument(f"this is no answer of a driver: {error!r}") from error
