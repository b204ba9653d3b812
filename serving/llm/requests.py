"""What all engines do alike with a request before they compute it. Pure."""

from __future__ import annotations

import hashlib

from serving.errors import InvalidArgument
from serving.llm.engine import Capabilities, GenerationRequest


def room_for(request: GenerationRequest, can: Capabilities, vocabulary: int) -> int:
    """How many tokens the answer may have. Raises `InvalidArgument` for a request that cannot be computed.

    `vocabulary`: tokens of prompts and begun answers are below.
    """
    sampling, prompt, most = request.sampling, request.prompt, can.context_tokens
    if not prompt:
        raise InvalidArgument("the prompt has no tokens")
    if len(prompt) >= most:
        raise InvalidArgument(f"the prompt has {len(prompt)} tokens, but prompt and answer together may have {most}")
    for what, tokens in (("prompt", prompt), ("begun answer", request.told)):
        if tokens and (min(tokens) < 0 or max(tokens) >= vocabulary):
            raise InvalidArgument(f"the {what} holds a token outside of the vocabulary of {vocabulary}")
    if sampling.max_tokens < 1:
        raise InvalidArgument(f"max_tokens: at least 1 is wanted, found {sampling.max_tokens}")
    if len(request.told) > sampling.max_tokens:
        raise InvalidArgument(f"the begun answer has {len(request.told)} tokens, more than {sampling.max_tokens}")
    if request.told and not can.resumes:
        raise InvalidArgument(f"the engine {can.engine} cannot continue an answer that another replica has begun")
    if sampling.logit_bias and not can.logit_bias:
        raise InvalidArgument(f"logit_bias: the engine {can.engine} cannot do it")
    if sampling.top_logprobs > can.top_logprobs:
        raise InvalidArgument(
            f"top_logprobs: the engine {can.engine} cannot do it"
            if not can.top_logprobs
            else f"top_logprobs: the engine {can.engine} gives {can.top_logprobs} at most"
        )
    return min(sampling.max_tokens, most - len(prompt))


def seed_of_32_bits(seed: int) -> int:
    """All seeds of clients (64 bits, signed) must differ, but engines take fewer bits, or give some a meaning."""
    return int.from_bytes(hashlib.blake2b(str(seed).encode(), digest_size=4).digest(), "little")
