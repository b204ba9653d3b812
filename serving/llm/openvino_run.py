"""One generation in the engine's thread, and whether it can go on where it was. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from serving.errors import Conflict, Internal, MeshError
from serving.llm.engine import FinishReason, Sampling
from serving.llm.generation_stream import GenerationStream
from serving.llm.openvino_pipeline import Output


@dataclass(eq=False, slots=True)
class EngineRun:
    """`told` are the tokens that left the thread, `again` how many of them come once more.

    `behind`: it started again, and has not had a new token since. `flows`: its prompt is computed, each step brings a
    token. `since`: when it came, or last had a token and was paused, in seconds of the loop's clock. `due`: it has
    waited for too long, and is not paused any more. `warmed` tokens of its prompt were computed in pieces, of which one
    may run now (`piece` ends there; 0: none does).
    """

    stream: GenerationStream
    max_tokens: int
    number: int
    since: float
    handle: Any = None
    told: list[int] = field(default_factory=list)
    again: int = 0
    behind: bool = False
    flows: bool = False
    due: bool = False
    warmed: int = 0
    piece: int = 0
    restarts: int = 0

    @property
    def order(self) -> tuple[bool, int, int]:
        """Of those that give way, what was begun is finished before anything else begins."""
        return (self.yields and not self.told, self.stream.request.priority, self.number)

    @property
    def yields(self) -> bool:
        return self.stream.request.yields

    @property
    def can_continue(self) -> bool:
        """Whether what was told can be put behind the prompt: then it need not be computed again token by token."""
        return 0 < len(self.told) < self.max_tokens and continues(self.stream.request.sampling)

    @property
    def can_pause(self) -> bool:
        """Whether it loses next to nothing by that, and cannot become another answer."""
        return not self.told or self.can_continue


def continues(sampling: Sampling) -> bool:
    """Not when the engine's state depends on how the answer began: guides, penalties, a place in a seeded sequence."""
    return (
        sampling.guide is None
        and (sampling.seed is None or sampling.temperature == 0)
        and (sampling.presence_penalty, sampling.frequency_penalty, sampling.repetition_penalty) == (0, 0, 1)
    )


def not_repeated(run: EngineRun) -> MeshError:
    if run.stream.request.told:
        return Conflict("the answer does not begin here as another replica has begun it, so it cannot be continued")
    return Internal("the generation could not be repeated after the engine had failed")


def cut_at_stop_token(output: Output, stop: Sequence[int]) -> FinishReason | None:
    """The engine forgets stop tokens when it is to ignore the model's own end."""
    for place, token in enumerate(output.tokens):
        if token in stop:
            del output.tokens[place + 1 :], output.logprobs[place + 1 :]
            return "stop"
    return None
