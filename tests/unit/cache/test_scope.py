"""What may share an answer, and what is never kept."""

from __future__ import annotations

from typing import Any

import pytest

from serving.cache.scope import Asked, Scope, ScopeRules, refuse_answer, scope_of

BODY: dict[str, Any] = {
    "model": "chat",
    "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why is the sky blue?"}],
}
PARTS = {"role": "user", "content": [{"type": "text", "text": "Why is the sky blue?"}]}
TOOL = {"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}


def scope(
    tenant: str = "t", model: str = "m", revision: str = "1", rules: ScopeRules | None = None, **changed: Any
) -> Scope:
    found = scope_of(Asked(tenant, model, revision, BODY | changed), rules)
    assert isinstance(found, Scope), found
    return found


def refused(rules: ScopeRules | None = None, **changed: Any) -> str:
    found = scope_of(Asked("t", "m", "1", BODY | changed), rules)
    assert isinstance(found, str)
    return found


@pytest.mark.parametrize(
    "changed",
    [
        {"tenant": "other"},
        {"model": "other"},
        {"revision": "2"},
        {"messages": [{"role": "system", "content": "Be long."}, BODY["messages"][1]]},
        {"messages": [BODY["messages"][1]]},
        {"messages": [BODY["messages"][0], {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hi"},
                      BODY["messages"][1]]},
        {"messages": [BODY["messages"][0], BODY["messages"][1] | {"name": "Ann"}]},
        {"tools": [TOOL]},
        {"tools": [TOOL], "tool_choice": "none"},
        {"response_format": {"type": "json_object"}},
        {"temperature": 0.1},
        {"temperature": 1, "seed": 5},
        {"top_p": 0.5},
        {"stop": ["\n"]},
        {"max_tokens": 5},
        {"logprobs": True},
        {"logit_bias": {"5": 1}},
        {"presence_penalty": 1},
        {"reasoning_effort": "low"},
        {"a_field_of_tomorrow": 1},
    ],
    ids=str,
)  # fmt: skip
def test_what_changes_answers_changes_the_scope(changed: dict[str, Any]) -> None:
    assert scope(**changed).digest != scope().digest
    assert scope(**changed).text == scope().text


@pytest.mark.parametrize(
    "changed",
    [{"stream": True}, {"stream_options": {"include_usage": True}}, {"user": "ann"}, {"metadata": {"a": "b"}}, {"n": 1},
     {"temperature": None}, {"tools": []}, {"response_format": {"type": "text"}}, {"logprobs": False},
     {"messages": [BODY["messages"][0], PARTS]}],
    ids=str,
)  # fmt: skip
def test_what_changes_no_answer_changes_no_scope(changed: dict[str, Any]) -> None:
    assert scope(**changed).key == scope().key


def test_both_names_of_the_token_limit_and_both_forms_of_a_number_are_one() -> None:
    assert scope(max_tokens=5).digest == scope(max_completion_tokens=5).digest
    assert scope(top_p=1).digest == scope(top_p=1.0).digest
    assert scope(logprobs=True).digest != scope(logprobs=1).digest


def test_an_alias_is_the_model_that_it_stands_for() -> None:
    assert scope_of(Asked("t", "m", "1", BODY | {"model": "alias"})) == scope()


def test_another_text_has_the_same_scope_and_another_key() -> None:
    other = scope(messages=[BODY["messages"][0], {"role": "user", "content": "Why is the sea blue?"}])
    assert other.digest == scope().digest
    assert other.key != scope().key


def test_users_of_a_tenant_can_be_kept_apart() -> None:
    rules = ScopeRules(per_user=True)
    assert scope(rules=rules, user="ann").digest != scope(rules=rules, user="bob").digest


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"n": 2}, "n is not 1"),
        ({"temperature": 1.2}, "variety is asked for"),
        ({"tools": [TOOL], "tool_choice": "required"}, "tool must be called"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "now"}}}, "tool must be called"),
        ({"function_call": {"name": "now"}}, "tool must be called"),
        ({"web_search_options": {}}, "web is searched"),
        ({"modalities": ["text", "audio"]}, "not text alone"),
        ({"messages": []}, "last message"),
        ({"messages": [{"role": "tool", "tool_call_id": "1", "content": "12:00"}]}, "last message"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "last message",
        ),
        ({"messages": [{"role": "user", "content": "  "}]}, "empty"),
        ({"messages": [{"role": "user", "content": "x" * 70_000}]}, "longer than 65536"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "not Unicode"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_is_never_cached_says_why(changed: dict[str, Any], why: str) -> None:
    assert why in refused(**changed)


def test_the_limit_of_the_temperature_is_the_operators() -> None:
    assert scope(rules=ScopeRules(max_temperature=2), temperature=1.9)
    assert "variety" in refused(rules=ScopeRules(max_temperature=0), temperature=0.1)


def answer(finish: str = "stop", **message: Any) -> dict[str, Any]:
    return {"choices": [{"finish_reason": finish, "message": {"role": "assistant", "content": "Because."} | message}]}


def test_a_whole_text_is_kept() -> None:
    assert refuse_answer(answer()) == ""


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (answer("length"), "end by itself: 'length'"),
        (answer("content_filter"), "end by itself"),
        (answer("tool_calls", content=None, tool_calls=[{"id": "1"}]), "calls a tool"),
        (answer(tool_calls=[{"id": "1"}]), "calls a tool"),
        (answer(content=""), "no text"),
        (answer(content=None), "no text"),
        (answer(refusal="no"), "refusal"),
        ({"choices": []}, "one choice"),
        ({"choices": answer()["choices"] * 2}, "one choice"),
        (answer() | {"error": {"message": "broken"}}, "error"),
        ({}, "one choice"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_all_other_answers_are_not_kept(made: dict[str, Any], why: str) -> None:
    assert why in refuse_answer(made)
