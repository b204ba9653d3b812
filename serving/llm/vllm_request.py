"""From the mesh's requests to vLLM's parameters, and from vLLM's outputs to token events. Pure."""

from __future__ import annotations

from typing import Any, Final

from serving.errors import Internal, Unavailable
from serving.llm.engine import FinishReason, Sampling, TokenEvent
from serving.llm.requests import seed_of_32_bits
from serving.llm.vllm_package import VllmPackage

_FINISHED: Final[dict[str, FinishReason]] = {"stop": "stop", "length": "length"}


def sampling_params(package: VllmPackage, sampling: Sampling, max_tokens: int, structured_outputs: Any) -> Any:
    """vLLM's `SamplingParams`. Raises what vLLM raises for values that it does not take."""
    return package.SamplingParams(
        max_tokens=max_tokens,
        min_tokens=min(sampling.min_tokens, max_tokens),
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        seed=None if sampling.seed is None else seed_of_32_bits(sampling.seed),
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        repetition_penalty=sampling.repetition_penalty,
        ignore_eos=sampling.ignore_eos,
        stop_token_ids=list(sampling.stop_token_ids),
        logit_bias=dict(sampling.logit_bias) or None,
        logprobs=sampling.top_logprobs if sampling.logprobs else None,
        structured_outputs=structured_outputs,
        detokenize=False,
        output_kind=package.RequestOutputKind.DELTA,
    )


def token_event(output: Any, sampling: Sampling) -> TokenEvent | None:
    """What is new in vLLM's `RequestOutput`; None: nothing. Raises `MeshError` when it ended without an answer."""
    part = output.outputs[0]
    tokens = tuple(part.token_ids)
    finish = None
    if part.finish_reason is not None:
        finish = _FINISHED.get(part.finish_reason)
        if part.finish_reason == "abort":
            raise Unavailable("the engine gave the generation up")
        if finish is None:
            raise Internal(f"the engine ended the generation with {part.finish_reason!r}")
    if not tokens and finish is None:
        return None
    scores = list(part.logprobs or ())
    return TokenEvent(
        tokens,
        logprobs=tuple(row[token].logprob for row, token in zip(scores, tokens, strict=True)) if scores else (),
        top_logprobs=tuple(_best(row, sampling.top_logprobs) for row in scores) if sampling.top_logprobs else (),
        finish=finish,
        cached=-1 if output.num_cached_tokens is None else output.num_cached_tokens,
    )


def _best(row: Any, count: int) -> dict[int, float]:
    """The likeliest ones; vLLM adds the chosen token to them."""
    return {token: score.logprob for token, score in row.items() if score.rank <= count}
