"""A replica's side of streams that are continued elsewhere (`serving.openai.resume`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from serving.errors import Conflict
from serving.llm.answers import AnswerHead
from serving.llm.choice import Choice, ChoiceDelta
from serving.llm.engine import Sampling
from serving.llm.service import LlmService
from serving.openai.checked import checked
from serving.openai.errors import InvalidRequest
from serving.openai.resume import CONTINUE, FIELD, HEADER, TELL, TOLD, Begun, Step, comment, prompt_digest
from serving.wire import Wire

_HEADER: Final = HEADER.encode()


def take_begun(wire: Wire, body: dict[str, Any]) -> Begun | None:
    """The begun answer, taken out of the body; None where the gateway asks for no continuation."""
    if wire.header(_HEADER) != CONTINUE:
        return None
    begun = body.pop(FIELD, None)
    if not isinstance(begun, dict):
        raise InvalidRequest(f"`{FIELD}` is missing", param=FIELD, error_code="missing_required_parameter")
    return checked(Begun, begun, {})


class Resuming:
    """Of one request for a stream of one choice: what was told elsewhere, and what is told here.

    Raises `InvalidRequest` for an answer that cannot be continued, `Conflict` when its prompt reads otherwise here.
    """

    def __init__(
        self,
        service: LlmService,
        wire: Wire,
        begun: Begun | None,
        *,
        prompt: Sequence[int],
        sampling: Sampling,
        one_stream: bool,
    ) -> None:
        """`one_stream`: it is a stream, and has a single choice."""
        self._begun = begun
        able = one_stream and service.capabilities.resumes and _repeatable(sampling)
        asked = wire.header(_HEADER)
        self._tells = able and asked in (TELL, CONTINUE)
        self._digest = prompt_digest(prompt) if self._tells else ""
        self._head_told = False
        if begun is not None and not able:
            raise InvalidRequest("this answer cannot be continued", param=FIELD, error_code="unsupported_parameter")
        if begun is not None and begun.prompt != self._digest:
            raise Conflict("the prompt reads otherwise at the replica that has begun the answer")

    @property
    def resumed(self) -> bool:
        """The stream's beginning was told elsewhere."""
        return self._begun is not None

    @property
    def told(self) -> Sequence[int]:
        return self._begun.tokens if self._begun is not None else ()

    def head(self, made: AnswerHead) -> AnswerHead:
        """As the answer began."""
        begun = self._begun
        return replace(made, id=begun.id, created=begun.created) if begun is not None else made

    def begin(self, choice: Choice) -> None:
        if self._begun is not None:
            choice.resume(self._begun.tokens, self._begun.finish)

    def announce(self, wire: Wire) -> None:
        """Before the answer begins."""
        if self._tells:
            wire.add_header(HEADER, TOLD)

    def mark(self, head: AnswerHead, new: ChoiceDelta) -> bytes:
        """What stands behind the events of a step."""
        if not self._tells:
            return b""
        step: Step = {"tokens": new.tokens}
        if not self._head_told:
            self._head_told = True
            step["head"] = {"id": head.id, "created": head.created, "prompt": self._digest}
        if new.finish is not None:
            step["finish"] = new.finish
        return comment(step)


def _repeatable(sampling: Sampling) -> bool:
    """Whether another replica can go on exactly: the text is determined, and no log probabilities are wanted,
    which nobody keeps."""
    return (sampling.temperature == 0 or sampling.seed is not None) and not sampling.logprobs
