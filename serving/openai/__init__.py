"""OpenAI's HTTP protocol: requests, answers, stream events, error objects. Pure: no engine, no server, no client.

Source: the API reference at https://platform.openai.com/docs/api-reference.
"""
