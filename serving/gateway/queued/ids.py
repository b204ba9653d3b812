"""The ids of queued requests in paths: `<namespace>.<application>.<journal>.<number>.<secret>`. Pure.

A ticket is `<journal>.<number>.<secret>`; no part of it, and no name, has a dot. The same as a text of the SDK has
slashes, which would end a path's segment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from serving.broker import tickets
from serving.errors import InvalidArgument, NotFound
from serving.store.keys import AppKey
from serving.types import is_name

_RESPONSE: Final = "resp_"


class UnknownRequest(NotFound):
    """Whoever asks learns no more than that: also of a request that is another tenant's."""

    error_code = "request_not_found"

    def __init__(self, text: str) -> None:
        shown = text if len(text) <= 100 else f"{text[:100]}..."
        super().__init__(f"no request `{shown}` is known here: there was none, or it is not kept any more")


@dataclass(frozen=True, slots=True)
class QueuedId:
    """`ticket` is the broker's, with its secret."""

    app: AppKey
    ticket: str

    def __str__(self) -> str:
        return f"{self.app.namespace}.{self.app.name}.{self.ticket}"

    @property
    def response(self) -> str:
        """The id of a background response."""
        return f"{_RESPONSE}{self}"

    @property
    def journal(self) -> str:
        return self.ticket.partition(".")[0]

    @property
    def sdk_text(self) -> str:
        """What `client.ticket` takes."""
        return f"{self.app}/{self.ticket}"


def read_queued_id(text: str) -> QueuedId:
    """Raises `UnknownRequest`."""
    namespace, _, rest = text.partition(".")
    name, _, ticket = rest.partition(".")
    if not (is_name(namespace) and is_name(name)):
        raise UnknownRequest(text)
    try:
        _, _, secret = tickets.read_ticket(ticket)
    except InvalidArgument as error:
        raise UnknownRequest(text) from error
    if not secret:
        raise UnknownRequest(text)
    return QueuedId(AppKey(namespace, name), ticket)


def read_response_id(text: str) -> QueuedId:
    """Raises `UnknownRequest`."""
    if not text.startswith(_RESPONSE):
        raise UnknownRequest(text)
    return read_queued_id(text.removeprefix(_RESPONSE))
