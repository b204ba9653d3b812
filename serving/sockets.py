"""Options of TCP sockets."""

from __future__ import annotations

import socket
from typing import Final

_WATCHED: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 10_000),
)


def watch_peer(connection: socket.socket) -> None:
    """A peer whose machine has gone is found out within some seconds; one that reads nothing for ten of what is sent
    counts as gone, too."""
    for level, option, value in _WATCHED:
        connection.setsockopt(level, option, value)
