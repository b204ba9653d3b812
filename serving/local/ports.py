"""Free TCP ports on loopback, for processes that must be told their port."""

from __future__ import annotations

import contextlib
import random
import socket
from pathlib import Path
from typing import Final

from serving.errors import ResourceExhausted

_LOWEST: Final = 10_000
_HIGHEST: Final = 65_535
_DEFAULT_EPHEMERAL: Final = (32_768, 60_999)
_TRIES_PER_PORT: Final = 200


def _ephemeral_range() -> tuple[int, int]:
    try:
        low, high = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()
    except OSError:
        return _DEFAULT_EPHEMERAL
    return int(low), int(high)


def free_ports(count: int, *, host: str = "127.0.0.1") -> list[int]:
    """`count` different ports that nobody listens on now. Raises `ResourceExhausted` when there are none.

    They lie outside the range of outgoing connections: there, the kernel may hand a port to some client while its
    server restarts, and a client that retries a closed port on loopback can even connect to itself.
    Another process may still take one before it is used: whoever starts a server tries again with new ports.
    """
    low, high = _ephemeral_range()
    candidates = [*range(_LOWEST, min(low, _HIGHEST)), *range(high + 1, _HIGHEST + 1)]
    if len(candidates) < 4 * count:
        candidates = list(range(_LOWEST, _HIGHEST + 1))
    tries = random.sample(candidates, min(len(candidates), _TRIES_PER_PORT * count))
    found: list[int] = []
    with contextlib.ExitStack() as held:  # all are held until the last one is found, so that they differ
        for port in tries:
            if len(found) == count:
                return found
            probe = held.enter_context(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET))
            try:
                probe.bind((host, port))
            except OSError:
                continue
            found.append(port)
    if len(found) == count:
        return found
    raise ResourceExhausted(f"only {len(found)} of {count} free TCP ports found on {host}")


def is_free(port: int, *, host: str = "127.0.0.1") -> bool:
    """True when a server could listen on `host:port` now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
