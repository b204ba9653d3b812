"""The steps of `LLMProcessor`: prepare, template, infer, post-process."""
