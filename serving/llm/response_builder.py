"""From what is new in an answer to the events and the object of the Responses API."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence

from serving.llm.answers import logprobs_object
from serving.llm.choice import ChoiceDelta, ScoredToken
from serving.llm.tool_calls import CallPiece, TextPiece
from serving.openai.chat_answers import TokenLogprob
from serving.openai.response_objects import OutputCall, OutputMessage, OutputText, ResponseEvent, ResponseObject, Status
from serving.openai.usage import Usage


class ResponseBuilder:
    """`begin`, `add` for each delta, `end`. What they yield are the events; `response` is what is known so far."""

    def __init__(self, response: ResponseObject, new_id: Callable[[str], str]) -> None:
        self.response = response
        self._new_id = new_id
        self._events = 0
        self._message: OutputMessage | None = None
        self._call: OutputCall | None = None

    def begin(self) -> Iterator[ResponseEvent]:
        for name in ("created", "in_progress"):
            yield self._event(f"response.{name}", {"response": self._snapshot()})

    def add(self, new: ChoiceDelta) -> Iterator[ResponseEvent]:
        scored: Sequence[ScoredToken] = new.scored
        for piece in new.pieces:
            if isinstance(piece, TextPiece):
                yield from self._text(piece.text, scored)
                scored = ()
            else:
                yield from self._of_call(piece)
        if new.finish is not None:
            status: Status = "incomplete" if new.finish == "length" else "completed"
            if not self.response["output"]:
                yield from self._text("", ())
            yield from self._close(status)
            self.response["status"] = status
            if status == "incomplete":
                self.response["incomplete_details"] = {"reason": "max_output_tokens"}

    def end(self, usage: Usage) -> Iterator[ResponseEvent]:
        self.response["usage"] = {
            "input_tokens": usage["prompt_tokens"],
            "input_tokens_details": {"cached_tokens": usage["prompt_tokens_details"]["cached_tokens"]},
            "output_tokens": usage["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage["total_tokens"],
        }
        yield self._event(f"response.{self.response['status']}", {"response": self._snapshot()})

    # ------------------------------------------------------------------------------------------------ text

    def _text(self, text: str, scored: Sequence[ScoredToken]) -> Iterator[ResponseEvent]:
        if self._message is None:
            yield from self._close("completed")
            yield from self._open_message()
        message = self._message
        assert message is not None
        part = message["content"][0]
        logprobs = _logprobs(scored)
        part["text"] += text
        part["logprobs"] += logprobs
        if text:
            data: ResponseEvent = {"item_id": message["id"], "content_index": 0, "delta": text, "logprobs": logprobs}
            yield self._event("response.output_text.delta", data)

    def _open_message(self) -> Iterator[ResponseEvent]:
        name = self._new_id("msg_")
        self._message = {
            "id": name,
            "type": "message",
            "role": "assistant",
            "status": "in_progress",
            "content": [],
        }
        self.response["output"].append(self._message)
        yield self._event("response.output_item.added", {"item": copy.deepcopy(self._message)})
        part: OutputText = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        self._message["content"].append(part)
        data: ResponseEvent = {"item_id": name, "content_index": 0, "part": copy.deepcopy(part)}
        yield self._event("response.content_part.added", data)

    def _close_message(self, message: OutputMessage, status: Status) -> Iterator[ResponseEvent]:
        part = message["content"][0]
        message["status"] = status
        place: ResponseEvent = {"item_id": message["id"], "content_index": 0}
        yield self._event(
            "response.output_text.done", {**place, "text": part["text"], "logprobs": list(part["logprobs"])}
        )
        yield self._event("response.content_part.done", {**place, "part": copy.deepcopy(part)})
        yield self._event("response.output_item.done", {"item": copy.deepcopy(message)})

    # ------------------------------------------------------------------------------------------------ calls

    def _of_call(self, piece: CallPiece) -> Iterator[ResponseEvent]:
        if piece.name is not None:
            yield from self._close("completed")
            self._call = {
                "id": self._new_id("fc_"),
                "type": "function_call",
                "status": "in_progress",
                "call_id": self._new_id("call_"),
                "name": piece.name,
                "arguments": "",
            }
            self.response["output"].append(self._call)
            yield self._event("response.output_item.added", {"item": copy.deepcopy(self._call)})
        if self._call is not None and piece.arguments:
            self._call["arguments"] += piece.arguments
            data: ResponseEvent = {"item_id": self._call["id"], "delta": piece.arguments}
            yield self._event("response.function_call_arguments.delta", data)

    def _close_call(self, call: OutputCall, status: Status) -> Iterator[ResponseEvent]:
        call["status"] = status
        data: ResponseEvent = {"item_id": call["id"], "name": call["name"], "arguments": call["arguments"]}
        yield self._event("response.function_call_arguments.done", data)
        yield self._event("response.output_item.done", {"item": copy.deepcopy(call)})

    def _close(self, status: Status) -> Iterator[ResponseEvent]:
        """What is open; only the last item of an answer that was cut is incomplete."""
        message, call = self._message, self._call
        self._message = self._call = None
        if message is not None:
            yield from self._close_message(message, status)
        if call is not None:
            yield from self._close_call(call, status)

    def _event(self, kind: str, data: ResponseEvent) -> ResponseEvent:
        made: ResponseEvent = {"type": kind, "sequence_number": self._events}
        if "response" not in data:
            made["output_index"] = len(self.response["output"]) - 1
        self._events += 1
        return {**made, **data}

    def _snapshot(self) -> ResponseObject:
        return copy.deepcopy(self.response)


def _logprobs(scored: Sequence[ScoredToken]) -> list[TokenLogprob]:
    return logprobs_object(scored)["content"] or []
