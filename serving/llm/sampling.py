"""From the fields of a request to what an engine is asked for; what it cannot do is refused by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from serving.errors import InvalidArgument
from serving.llm.engine import Capabilities, Engine, Guide, Sampling
from serving.openai.errors import ContextLengthExceeded, InvalidRequest
from serving.openai.response_format import JsonObjectFormat, JsonSchemaFormat, ResponseFormat
from serving.openai.sampling_fields import SamplingFields


def answer_budget(capabilities: Capabilities, prompt: int, asked: int | None, param: str) -> int:
    """The most tokens of an answer to so long a prompt. Raises `ContextLengthExceeded` when that does not fit."""
    room = capabilities.context_tokens - prompt
    if room < (asked or 1):
        raise ContextLengthExceeded(context=capabilities.context_tokens, prompt=prompt, answer=asked or 1, param=param)
    return asked or room


def sampling_of(
    fields: SamplingFields,
    capabilities: Capabilities,
    *,
    max_tokens: int,
    guide: Guide | None = None,
    logprobs: bool = False,
    top_logprobs: int = 0,
) -> Sampling:
    """Raises `InvalidRequest` for what this engine cannot do."""
    if logprobs and not capabilities.logprobs:
        raise unable("logprobs", capabilities, "it has no log probabilities")
    if top_logprobs > capabilities.top_logprobs:
        can = f"at most {capabilities.top_logprobs}" if capabilities.top_logprobs else "only those of chosen tokens"
        raise unable("top_logprobs" if logprobs else "logprobs", capabilities, f"it has log probabilities of {can}")
    if fields.priority and not capabilities.priorities:
        raise unable("priority", capabilities, "it takes requests in their order")
    return Sampling(
        max_tokens=max_tokens,
        temperature=1.0 if fields.temperature is None else fields.temperature,
        top_p=1.0 if fields.top_p is None else fields.top_p,
        top_k=max(0, fields.top_k or 0),
        min_p=fields.min_p or 0.0,
        seed=fields.seed,
        presence_penalty=fields.presence_penalty or 0.0,
        frequency_penalty=fields.frequency_penalty or 0.0,
        repetition_penalty=1.0 if fields.repetition_penalty is None else fields.repetition_penalty,
        min_tokens=min(fields.min_tokens or 0, max_tokens),
        ignore_eos=bool(fields.ignore_eos),
        stop_token_ids=tuple(fields.stop_token_ids or ()),
        logit_bias=_logit_bias(fields.logit_bias, capabilities),
        logprobs=logprobs,
        top_logprobs=top_logprobs,
        guide=guide,
    )


def text_guide(
    fields: SamplingFields, response_format: ResponseFormat | None, capabilities: Capabilities
) -> tuple[Guide, str] | None:
    """What the text must be, and the field that says so. Raises `InvalidRequest` for two of them."""
    asked: list[tuple[Guide, str]] = []
    if isinstance(response_format, JsonObjectFormat):
        asked.append((Guide("json_object"), "response_format"))
    if isinstance(response_format, JsonSchemaFormat):
        asked.append((schema_guide(response_format.json_schema.json_schema), "response_format"))
    if fields.guided_json is not None:
        asked.append((schema_guide(fields.guided_json), "guided_json"))
    if fields.guided_regex is not None:
        asked.append((Guide("regex", fields.guided_regex), "guided_regex"))
    if fields.guided_grammar is not None:
        asked.append((Guide("grammar", fields.guided_grammar), "guided_grammar"))
    if len(asked) > 1:
        names = " and ".join(f"`{name}`" for _, name in asked)
        raise InvalidRequest(f"{names} cannot be given together", param=asked[1][1], error_code="invalid_value")
    if not asked:
        return None
    check_kind(asked[0][0], asked[0][1], capabilities)
    return asked[0]


def check_kind(guide: Guide, param: str, capabilities: Capabilities) -> None:
    if guide.kind not in capabilities.guides:
        can = ", ".join(sorted(capabilities.guides)) or "nothing"
        raise unable(param, capabilities, f"it can be guided by: {can}; not by {guide.kind}")


def check_guide(engine: Engine, guide: Guide, param: str) -> None:
    """Raises `InvalidRequest` with the field for a guide that the engine cannot follow."""
    try:
        engine.check(guide)
    except InvalidArgument as error:
        code = "invalid_schema" if guide.kind == "json_schema" else "invalid_value"
        raise InvalidRequest(f"`{param}`: {error.message}", param=param, error_code=code) from error


def schema_guide(schema: Mapping[str, Any] | None) -> Guide:
    return Guide("json_schema", json.dumps(schema, ensure_ascii=False)) if schema else Guide("json_object")


def unable(param: str, capabilities: Capabilities, why: str) -> InvalidRequest:
    return InvalidRequest(
        f"`{param}` asks for what this model's engine ({capabilities.engine}) cannot do: {why}",
        param=param,
        error_code="unsupported_parameter",
    )


def _logit_bias(bias: Mapping[str, float] | None, capabilities: Capabilities) -> dict[int, float]:
    if not bias:
        return {}
    if not capabilities.logit_bias:
        raise unable("logit_bias", capabilities, "it cannot change the likelihood of tokens")
    made: dict[int, float] = {}
    for name, value in bias.items():
        if not (name.isascii() and name.isdigit() and len(name) < 10):
            raise InvalidRequest(
                f"`logit_bias` names tokens by their number; {name[:40]!r} is none",
                param="logit_bias",
                error_code="invalid_value",
            )
        made[int(name)] = value
    return made
