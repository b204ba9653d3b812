"""Guides for OpenVINO GenAI: its form of them, and what only it can find wrong."""

from __future__ import annotations

from typing import Any

from serving.llm import guides
from serving.llm.engine import Guide
from serving.llm.engine_errors import one_line
from serving.llm.guides import ANY_OBJECT, GuideRefused


def structured_output(genai: Any, guide: Guide, native: Any) -> Any:
    """The engine's form of a guide. With `native` (a `serving._genai.GenAi` or None), JSON is on one line.

    A JSON schema allows any whitespace between two parts, and a small or a sampling model may write blanks until its
    tokens are used up; the engine has no option against it, but follows a grammar without them. Raises `GuideRefused`
    for a schema that it cannot follow.
    """
    if guide.kind == "regex":
        return genai.StructuredOutputConfig(regex=guide.text)
    if guide.kind == "grammar":
        return genai.StructuredOutputConfig(grammar=guide.text)
    schema = guide.text or ANY_OBJECT
    if native is None:
        return genai.StructuredOutputConfig(json_schema=schema)
    try:
        return genai.StructuredOutputConfig(grammar=native.schema_grammar(schema))
    except RuntimeError as error:
        raise GuideRefused(one_line(error)) from error


def check_guide(guide: Guide, native: Any = None) -> None:
    """Raises `InvalidArgument` for a guide that is wrong by its own language or that the engine cannot follow.

    `native`: a `serving._genai.GenAi`, which reads it as the engine will; without it, what only the engine cannot do is
    found when it does it.
    """
    guides.check_guide(guide)
    if native is not None and guide.kind != "json_object":
        reads = {"json_schema": native.schema_grammar, "regex": native.check_regex, "grammar": native.check_grammar}
        try:
            reads[guide.kind](guide.text)
        except (RuntimeError, UnicodeDecodeError) as error:  # the latter: a message with half of a character
            raise GuideRefused(one_line(error)) from error
