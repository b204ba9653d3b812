"""Tools that a chat may use, and how it must choose among them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from serving.openai.checked import RequestModel

NAME_PATTERN = r"^[a-zA-Z0-9_-]{1,64}$"
MAX_TOOLS = 128
FunctionName = Annotated[str, Field(pattern=NAME_PATTERN)]


class Function(RequestModel):
    """`parameters` is a JSON schema of an object; without it there are none.

    `strict` is kept where the call is certain (`tool_choice` is `required` or names a function).
    """

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(RequestModel):
    type: Literal["function"]
    function: Function


class NamedFunction(RequestModel):
    name: FunctionName


class NamedToolChoice(RequestModel):
    type: Literal["function"]
    function: NamedFunction


ToolChoice = Literal["none", "auto", "required"] | NamedToolChoice


class ToolFields(RequestModel):
    """Which functions the answer may or must call."""

    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None

    @field_validator("tools")
    @classmethod
    def _distinct(cls, tools: list[Tool] | None) -> list[Tool] | None:
        names = [tool.function.name for tool in tools or ()]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two functions have the name `{name}`")
        return tools

    @property
    def offered(self) -> list[Tool]:
        """The tools that may be called; none where `tool_choice` says so."""
        return [] if self.tool_choice == "none" else list(self.tools or ())
