"""An answer on its way through: which of its headers pass, and what becomes of a stream that breaks off."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from serving.errors import Internal
from serving.gateway.keys.usage import UsageReader
from serving.gateway.sizes import AnswerMeter
from serving.http_client import Answer, Broke
from serving.openai import resume, sse, usage_report
from serving.openai.errors import error_object
from serving.wire import Wire

# Of one connection only (RFC 9110, 7.6.1), said anew by whoever sends on, or of no client's concern.
_NOT_FORWARDED: Final = frozenset(
    name.encode()
    for name in (
        *("connection", "keep-alive", "proxy-connection", "proxy-authenticate", "te", "trailer", "transfer-encoding"),
        *("upgrade", "server", "date", "set-cookie", "alt-svc", resume.HEADER, usage_report.HEADER),
    )
)
_EVENTS: Final = "text/event-stream"
EVENT_END: Final = b"\n\n"


class Broken(Internal):
    """An answer ended in its middle. `told`: by an error event, so that nothing is left to do."""

    def __init__(self, *, told: bool) -> None:
        super().__init__("the replica broke off its answer")
        self.told = told


def forwarded_headers(raw: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Those that clients may see, in lower case."""
    fields = [(name.lower(), value) for name, value in raw]
    named = [word.strip().lower() for name, value in fields if name == b"connection" for word in value.split(b",")]
    barred = _NOT_FORWARDED.union(named) if named else _NOT_FORWARDED
    return [field for field in fields if field[0] not in barred]


async def pass_on(
    response: Answer,
    wire: Wire,
    meter: AnswerMeter,
    usage: UsageReader | None = None,
    heard: Callable[[bytes], None] = lambda _: None,
) -> None:
    """The whole body, which `meter`, `usage` and `heard` see. Raises `Broken` when it ends too early.

    Events are passed on whole, so that an error event can follow the last of them.
    """
    events = response.headers.get("content-type", "").startswith(_EVENTS)
    rest = b""
    try:
        async for part in response:
            meter.add(part)
            heard(part)
            if not events:
                if usage is not None:
                    usage.body(part)
                whole = part
            else:
                rest += part
                end = rest.rfind(EVENT_END) + len(EVENT_END)
                if end < len(EVENT_END):
                    continue
                whole, rest = (rest[:end] if usage is None else usage.events(rest[:end])), rest[end:]
            if response.ended:  # no other part comes: this one goes with the end
                rest = whole + rest
                break
            await wire.send(whole)
    except Broke as error:
        broken = Broken(told=events)
        if events:
            await wire.end(sse.event(error_object(broken)))
        raise broken from error
    await wire.end(rest)
