"""How a call begins that must be made: as the model's own template writes calls."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from serving.errors import InvalidArgument
from serving.llm.prompts import Prompts
from serving.openai.messages import UserMessage
from tests.support.scripted_engine import ByteCodec, ScriptedEngine


class Template(ByteCodec):
    """Writes `between` behind the opening tag; None: refuses calls, as templates do that know none."""

    def __init__(self, between: str | None) -> None:
        self._between = between

    def render(self, messages: Sequence[Mapping[str, Any]], **_: Any) -> str:
        text = ""
        for message in messages:
            text += f"{message['role']}: {message['content']}\n"
            for call in message.get("tool_calls", ()):
                if self._between is None:
                    raise InvalidArgument("the template knows no calls")
                text += f"<tool_call>{self._between}{json.dumps(call['function'])}</tool_call>"
        return text


@pytest.mark.parametrize(("between", "begins"), [("\n", "<tool_call>\n"), ("", "<tool_call>"), (None, "<tool_call>")])
async def test_the_space_of_the_template_is_kept(between: str | None, begins: str) -> None:
    engine = ScriptedEngine()
    engine.codec = Template(between)
    prompts = Prompts(engine)
    tokens = await prompts.chat([UserMessage(role="user", content="hi")], begin_call=True)
    assert bytes(tokens).decode() == f"user: hi\n{begins}"
    prompts.close()
