"""How a stream whose replica has died is continued on another one: what replicas tell a gateway, and are asked with.

Between gateway and replica only, in three steps; no client sees any of it:

1. The gateway asks with `x-mesh-resume: tell`. A replica that could continue the answer says `x-mesh-resume: told`, and
   writes behind the events of each step a comment (which clients of server-sent events skip) with their tokens.
2. The gateway holds events back until their comment is there, and takes the comments out.
3. When the replica dies, the gateway asks another one with `x-mesh-resume: continue`, and the same body with the member
   `mesh_resume` behind it: a `Begun`. The answer has what follows, and nothing of what was told.

Token ids travel, not text: text would become other tokens where the model had not chosen the likeliest ones for it.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import Field
from typing_extensions import NotRequired, TypedDict

from serving.openai.checked import RequestModel
from serving.openai.completions import MAX_TOKENS, TokenId
from serving.openai.sse import to_json

HEADER: Final = "x-mesh-resume"
TELL: Final = "tell"
TOLD: Final = "told"
CONTINUE: Final = "continue"
FIELD: Final = "mesh_resume"
COMMENT: Final = b": mesh "  # how the block begins that ends a step

ResumedFinish = Literal["stop", "length", "tool_calls"]
_ID: Final = r"^[\x21-\x7e]+$"


class Head(TypedDict):
    """What pieces of one answer share. `prompt` is `prompt_digest`: continued is only what begins alike."""

    id: str
    created: int
    prompt: str


class Step(TypedDict):
    """A comment: the tokens of the events before it; with the first, `head`; with the last, `finish`."""

    tokens: Sequence[int]
    head: NotRequired[Head]
    finish: NotRequired[ResumedFinish]


class Begun(RequestModel):
    """An answer that another replica has begun. With `finish` only its end is wanted: usage, and that it is done."""

    id: Annotated[str, Field(max_length=64, pattern=_ID)]
    created: Annotated[int, Field(ge=0)]
    prompt: Annotated[str, Field(max_length=64)]
    tokens: Annotated[list[TokenId], Field(max_length=MAX_TOKENS, fail_fast=True)]
    finish: ResumedFinish | None = None


def comment(step: Step) -> bytes:
    return b"%s%s\n\n" % (COMMENT, to_json(step))


def prompt_digest(prompt: Sequence[int]) -> str:
    return hashlib.blake2b(array("i", prompt).tobytes(), digest_size=16).hexdigest()


def continued_body(body: bytes, begun: dict[str, Any]) -> bytes:
    """The body of a request, which must be a JSON object with a member, with the begun answer as its last one."""
    return b'%s,"%s":%s}' % (body.rstrip().removesuffix(b"}"), FIELD.encode(), to_json(begun))
