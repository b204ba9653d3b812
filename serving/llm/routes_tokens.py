"""`POST /tokenize` and `POST /detokenize`."""

from __future__ import annotations

from typing import Any

from serving.llm.service import LlmService
from serving.openai.checked import checked
from serving.openai.tokens import DetokenizeAnswer, DetokenizeRequest, TokenizeAnswer, TokenizeRequest
from serving.wire import Wire


async def tokenize(service: LlmService, wire: Wire, body: dict[str, Any]) -> None:
    request = checked(TokenizeRequest, body, {})
    service.check_model(request.model)
    if request.messages is not None:
        tokens = await service.prompts.chat(
            request.messages,
            tools=request.tools or (),
            options=request.chat_template_kwargs,
            add_generation_prompt=request.add_generation_prompt,
        )
    else:
        tokens = await service.prompts.text(request.prompt or "", special=request.add_special_tokens)
    codec = service.engine.codec
    answer: TokenizeAnswer = {
        "count": len(tokens),
        "max_model_len": service.capabilities.context_tokens,
        "tokens": tokens,
        "token_strs": [codec.decode([token]) for token in tokens] if request.return_token_strs else None,
    }
    await wire.answer(200, answer)


async def detokenize(service: LlmService, wire: Wire, body: dict[str, Any]) -> None:
    request = checked(DetokenizeRequest, body, {})
    service.check_model(request.model)
    text = await service.prompts.run(len(request.tokens), lambda: service.engine.codec.decode(request.tokens))
    answer: DetokenizeAnswer = {"prompt": text}
    await wire.answer(200, answer)
