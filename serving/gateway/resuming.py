"""A stream that outlives its replica: what was told of it, and how it is passed on so that another one can continue it.

The protocol between gateway and replica is that of `serving.openai.resume`.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable
from typing import Any, Final

from serving.gateway.keys.usage import UsageReader
from serving.gateway.passing import EVENT_END, Broken
from serving.gateway.sizes import AnswerMeter
from serving.http_client import Answer
from serving.http_client import Broke as ConnectionBroke
from serving.openai.resume import COMMENT, continued_body
from serving.openai.sse import DONE
from serving.wire import Wire

RESUMED_PATHS: Final = frozenset({"/v1/chat/completions", "/v1/completions"})
_MOST_RESUMES: Final = 3
_MOST_TOKENS: Final = 1 << 17  # of an answer; longer ones cannot be continued any more


class ResumableStream:
    """Of one request, whatever replicas told it. `made_by` says who may go on: others may have other weights."""

    def __init__(self, made_by: tuple[str, int]) -> None:
        self.made_by = made_by
        self._head: dict[str, Any] | None = None
        self._tokens = array("i")
        self._finish: str | None = None
        self._rest = b""
        self._resumes = 0
        self._at_resume = -1  # tokens, when it was continued for the last time

    def feed(self, data: bytes) -> bytes:
        """The events of the steps that are whole now, without the comments behind them."""
        self._rest += data
        told = b""
        while (at := self._comment_at()) >= 0 and (end := self._rest.find(EVENT_END, at)) >= 0:
            self._take(json.loads(self._rest[at + len(COMMENT) : end]))
            told += self._rest[:at]
            self._rest = self._rest[end + len(EVENT_END) :]
        return told

    def _comment_at(self) -> int:
        if self._rest.startswith(COMMENT):
            return 0
        at = self._rest.find(EVENT_END + COMMENT)
        return at + len(EVENT_END) if at >= 0 else -1

    def _take(self, step: dict[str, Any]) -> None:
        self._head = self._head or step["head"]
        if len(self._tokens) <= _MOST_TOKENS:
            self._tokens.extend(step["tokens"])
        self._finish = step.get("finish")

    def take_end(self) -> bytes | None:
        """What stands behind the last step of an answer that has ended; None where it has not, as its replica leaves.

        An error of another kind is an end, too: another replica would only repeat it.
        """
        rest, self._rest = self._rest, b""
        if rest.endswith(DONE):
            return rest
        last = rest.removesuffix(EVENT_END).rpartition(EVENT_END)[2]
        error = json.loads(last.removeprefix(b"data: ")).get("error") if last.startswith(b"data: {") else None
        return None if error is None or error.get("code") == "unavailable" else rest

    def may_resume(self) -> bool:
        """To be asked when it broke off. False also when no new token came before: it may be what kills replicas."""
        self._rest = b""
        tokens = len(self._tokens)
        if self._resumes >= _MOST_RESUMES or tokens > _MOST_TOKENS or tokens <= self._at_resume:
            return False
        self._resumes += 1
        self._at_resume = tokens
        return True

    def body(self, asked: bytes) -> bytes | None:
        """What a replica is asked with to continue. None where nothing was told yet: it is asked as the first one."""
        if self._head is None:
            return None
        return continued_body(asked, {**self._head, "tokens": self._tokens.tolist(), "finish": self._finish})


async def pass_steps(
    response: Answer,
    wire: Wire,
    stream: ResumableStream,
    meter: AnswerMeter,
    usage: UsageReader | None = None,
    heard: Callable[[bytes], None] = lambda _: None,
) -> None:
    """The whole body, which `meter`, `usage` and `heard` see, each step when all of it is there.

    Raises `Broken` when it ends too early, between two steps.
    """
    try:
        async for part in response:
            meter.add(part)
            told = stream.feed(part)
            heard(told)
            await wire.send(told if usage is None else usage.events(told))
    except ConnectionBroke as error:
        raise Broken(told=False) from error
    end = stream.take_end()
    if end is None:
        raise Broken(told=False)
    heard(end)
    await wire.end(end if usage is None else usage.events(end))
