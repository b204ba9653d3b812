"""Guides of every engine: what they force, and that one which an engine cannot follow harms nobody else.

A class of tests gives it a fixture `engine`: a started one with the tiny chat model.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re

import pytest

from serving.errors import InvalidArgument
from serving.llm.engine import Engine, Guide
from tests.support.generations import PROMPT, all_of, answer, started_tokens, submit, text_of

ANIMAL = Guide(
    "json_schema",
    json.dumps(
        {
            "type": "object",
            "properties": {"name": {"enum": ["cat", "dog"]}, "legs": {"type": "integer", "minimum": 0, "maximum": 9}},
            "required": ["name", "legs"],
            "additionalProperties": False,
        }
    ),
)
# Right by the rules of their languages, or not checkable without the engine; it raises for each in every step.
POISON = (
    Guide("json_schema", '{"$ref": "#/$defs/none"}'),
    Guide("regex", "[a-"),
    Guide("regex", "(a"),
    Guide("regex", r"(?=a)b"),
    Guide("grammar", "root ::= none"),
    Guide("grammar", "root ::= é"),  # the engine's message cuts the character in two
    Guide("grammar", "root ::= ("),
)


class GuideContract:
    async def test_answers_follow_their_guides(self, engine: Engine) -> None:
        for temperature in (0.0, 1.0):
            found = json.loads(await text_of(engine, guide=ANIMAL, max_tokens=100, temperature=temperature, seed=1))
            assert found["name"] in ("cat", "dog")
            assert found["legs"] <= 9
            text = await text_of(engine, guide=Guide("regex", "[a-c]{2,4}x"), temperature=temperature, seed=1)
            assert re.fullmatch("[a-c]{2,4}x", text)
            assert await text_of(engine, guide=Guide("grammar", 'root ::= "yes" | "no"')) in ("yes", "no")
        assert (await text_of(engine, guide=Guide("json_object"), max_tokens=200)).lstrip().startswith("{")

    async def test_json_is_written_on_one_line(self, engine: Engine) -> None:
        """Free whitespace would let a model of random weights write blanks until its tokens are used up."""
        for seed in range(8):
            text = await text_of(engine, guide=ANIMAL, max_tokens=100, temperature=1.5, seed=seed)
            assert text == json.dumps(json.loads(text))

    async def test_the_grammar_of_a_schema_is_one_that_the_engine_reads(self, engine: Engine) -> None:
        schemas: list[object] = [
            {"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 1},
            {"type": "array", "items": {"type": "string", "pattern": "[a-z]{2,3}"}, "maxItems": 3},
            {"anyOf": [{"type": "string", "format": "date-time"}, {"const": 'é"x\n'}, {"type": "null"}]},
            {"$defs": {"a.b": {"type": "string", "minLength": 2}}, "$ref": "#/$defs/a.b"},
            {"$defs": {"t": {"type": "array", "items": {"$ref": "#/$defs/t"}}}, "$ref": "#/$defs/t"},
            {"type": "number", "minimum": -3, "maximum": 12.5},
            True,
        ]
        for schema in schemas:
            guide = Guide("json_schema", json.dumps(schema))
            engine.check(guide)
            assert await answer(engine, guide=guide, max_tokens=20, ignore_eos=False)

    @pytest.mark.parametrize("guide", POISON, ids=lambda guide: guide.text[:12])
    async def test_a_guide_that_breaks_steps_fails_alone(self, engine: Engine, guide: Guide) -> None:
        wanted = await answer(engine, max_tokens=60)
        sampled = await answer(engine, max_tokens=60, temperature=1.0, seed=7, presence_penalty=0.5)
        guided = await answer(engine, max_tokens=60, guide=ANIMAL, ignore_eos=False)
        others = [
            submit(engine, max_tokens=60),
            submit(engine, max_tokens=60, temperature=1.0, seed=7, presence_penalty=0.5),
            submit(engine, max_tokens=60, guide=ANIMAL, ignore_eos=False),
        ]
        begun = [await started_tokens(other, 2) for other in others]
        with pytest.raises(InvalidArgument, match=r"cannot follow the guide: .{5}"):
            await answer(engine, guide=guide)
        ends = [await all_of(other) for other in others]
        assert [first + rest for first, (rest, _) in zip(begun, ends, strict=True)] == [wanted, sampled, guided]
        with pytest.raises(InvalidArgument, match="cannot follow the guide"):
            engine.check(guide)
        with pytest.raises(InvalidArgument, match="cannot follow the guide"):
            submit(engine, guide=guide)
        assert await answer(engine, max_tokens=60) == wanted
        assert engine.failure == ""

    async def test_many_bad_guides_among_good_requests(self, engine: Engine) -> None:
        wanted = await answer(engine, max_tokens=30)

        async def bad(guide: Guide) -> None:
            with pytest.raises(InvalidArgument, match="cannot follow the guide"):
                await answer(engine, guide=guide)

        async def good() -> None:
            assert await answer(engine, max_tokens=30) == wanted

        async def followed() -> None:
            json.loads(await text_of(engine, guide=ANIMAL, max_tokens=100))

        await asyncio.gather(*(one for guide in POISON for one in (good(), bad(guide), followed(), good())))
        assert engine.failure == ""
        assert (engine.load().running, engine.load().waiting) == (0, 0)

    async def test_a_bad_guide_that_is_cancelled_in_time_harms_nobody(self, engine: Engine) -> None:
        wanted = await answer(engine)
        for guide in POISON:
            with contextlib.suppress(InvalidArgument):  # found before it runs, by some engines
                submit(engine, guide=guide).cancel()
            assert await answer(engine) == wanted

    async def test_what_only_the_engine_cannot_follow_is_found_before_it_runs(self, engine: Engine) -> None:
        for guide in POISON:
            with pytest.raises(InvalidArgument, match=r"cannot follow the guide: .{5}"):
                engine.check(guide)

    async def test_guides_that_would_keep_the_engine_busy_or_end_the_process_are_refused(self, engine: Engine) -> None:
        deep = '{"type": "array", "items": ' * 70 + "{}" + "}" * 70
        for kind, text, message in (
            ("regex", "(" * 30_000 + ")" * 30_000, "30000 brackets"),
            ("grammar", 'root ::= "a" ' + "(" * 30_000, "30000 brackets"),
            ("regex", "a" * 70_000, "70000 characters"),
            ("regex", "(((a{100}){100}){1,100})", "repeats too much"),
            ("json_schema", deep, "nested too deeply"),
            ("json_schema", json.dumps({"type": "string", "pattern": "((a{300}){,300}){300}"}), "repeats too much"),
        ):
            with pytest.raises(InvalidArgument, match=message):
                engine.check(Guide(kind, text))  # type: ignore[arg-type]
            with pytest.raises(InvalidArgument, match=message):
                submit(engine, guide=Guide(kind, text))  # type: ignore[arg-type]
        engine.check(Guide("regex", r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"))

    async def test_what_is_wrong_by_the_language_of_a_guide_is_found_without_the_engine(self, engine: Engine) -> None:
        for kind, text, message in (
            ("json_schema", '{"type":', "is not JSON"),
            ("json_schema", "[1]", "is an object, found list"),
            ("json_schema", '{"properties": {"a": {"type": "text"}}}', "wrong at properties/a/type: 'text' is not"),
            ("json_schema", "[" * 60_000, "is not JSON"),
            ("regex", "", "the regex is empty"),
            ("grammar", " ", "the grammar is empty"),
        ):
            with pytest.raises(InvalidArgument, match=message):
                engine.check(Guide(kind, text))  # type: ignore[arg-type]
        engine.check(ANIMAL)
        engine.check(Guide("json_object"))
        assert len(await answer(engine, PROMPT)) == 20
