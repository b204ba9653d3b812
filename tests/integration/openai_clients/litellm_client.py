"""Asks a server of OpenAI's protocol with LiteLLM as a library: `litellm_client.py BASE_URL MODEL`.

Runs in build/openai-clients. Prints what it saw as one line of JSON.
"""

import asyncio
import json
import sys

import litellm

QUESTION = [{"role": "user", "content": "What is the capital of Japan?"}]
PARAMETERS = {"type": "object", "properties": {"city": {"enum": ["Oslo", "Rome"]}}, "required": ["city"]}
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS}}]


def main(base: str, model: str) -> None:
    options = {"model": f"openai/{model}", "api_base": base, "api_key": "none", "temperature": 0, "num_retries": 0}
    seen = {}
    whole = litellm.completion(messages=QUESTION, **options)
    seen["whole"] = whole.choices[0].message.content
    seen["tokens"] = whole.usage.total_tokens
    chunks = list(litellm.completion(messages=QUESTION, stream=True, stream_options={"include_usage": True}, **options))
    seen["streamed"] = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    seen["streamedTokens"] = litellm.stream_chunk_builder(chunks).usage.total_tokens
    asked = [{"role": "user", "content": "What is the weather in Oslo?"}]
    call = litellm.completion(messages=asked, tools=TOOLS, **options).choices[0].message.tool_calls[0].function
    seen["call"] = [call.name, json.loads(call.arguments)]
    seen["asynchronous"] = asyncio.run(_asynchronous(options))
    seen["completion"] = litellm.text_completion(
        model=f"text-completion-openai/{model}", prompt="Hello", max_tokens=3, api_base=base, api_key="none"
    ).usage.completion_tokens
    seen["response"] = litellm.responses(
        model=f"openai/{model}", input="What is the capital of Japan?", api_base=base, api_key="none", temperature=0
    ).output_text
    try:
        litellm.completion(messages=QUESTION, **{**options, "model": "openai/none"})
    except litellm.NotFoundError as error:
        seen["error"] = error.status_code
    print(json.dumps(seen))


async def _asynchronous(options: dict) -> str:
    stream = await litellm.acompletion(messages=QUESTION, stream=True, **options)
    return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])


if __name__ == "__main__":
    main(*sys.argv[1:])
