"""Why a request got no answer, or not the whole one."""

from __future__ import annotations


class RequestFailed(Exception):
    """Below are its kinds; each says where, and what happened."""


class NotConnected(RequestFailed):
    """Nothing was sent. `cause` is what the system said, or a `TimeoutError` where there was no connection in time."""

    def __init__(self, where: str, cause: OSError) -> None:
        super().__init__(f"cannot connect to {where}: {cause.strerror or cause}")
        self.cause = cause


class Broke(RequestFailed):
    """The request was sent, at least in part: the connection ended, was silent for too long, or carried no HTTP."""


class Silent(Broke):
    """Nothing came for too long on a connection that was whole as far as anybody knew."""
