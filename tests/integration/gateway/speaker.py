"""A raw replica that answers chats, and numbers its answers."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tests.integration.gateway.raw_replica import RawReplica, whole

USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
CHUNK = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}


class Speaker:
    """Says what number of answer it is, at once or as a stream; `hold` keeps answers from ending."""

    def __init__(self, place: str = "here") -> None:
        self._place = place
        self.answers = 0
        self.finish = "stop"
        self.breaks = False
        self.hold = asyncio.Event()
        self.hold.set()

    async def __call__(self, _replica: RawReplica, body: bytes, writer: asyncio.StreamWriter) -> None:
        asked = json.loads(body)
        self.answers += 1
        text = f"Answer {self.answers} from {self._place}."
        if asked.get("stream"):
            await self._stream(text, asked, writer)
            return
        await self.hold.wait()
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self.finish}
        made = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": USAGE}
        await whole("200 OK", json.dumps(made).encode())(_replica, body, writer)

    async def _stream(self, text: str, asked: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        words = text.split(" ")
        deltas: list[tuple[dict[str, str], str | None]] = [({"role": "assistant", "content": ""}, None)]
        deltas += [({"content": word if not place else f" {word}"}, None) for place, word in enumerate(words)]
        for place, (delta, finish) in enumerate([*deltas, ({}, self.finish)]):
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
            _event(
                writer, {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
            )
            await writer.drain()
            if place == 2:
                await self.hold.wait()
                if self.breaks:
                    writer.transport.abort()
                    return
        if (asked.get("stream_options") or {}).get("include_usage"):
            _event(writer, {**CHUNK, "choices": [], "usage": USAGE})
        _piece(writer, b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")


def _event(writer: asyncio.StreamWriter, value: dict[str, Any]) -> None:
    _piece(writer, b"data: %s\n\n" % json.dumps(value).encode())


def _piece(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"%x\r\n%s\r\n" % (len(data), data))
