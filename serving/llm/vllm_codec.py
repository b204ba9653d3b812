"""Text ↔ token ids with a Hugging Face tokenizer as vLLM loads it, and prompts by its chat template."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from serving.errors import FailedPrecondition, InvalidArgument
from serving.llm.engine_errors import one_line
from serving.llm.unicode import check_unicode


class HfCodec:
    """A `TextCodec`. All methods may be called from any thread."""

    def __init__(self, tokenizer: Any, vocabulary: int) -> None:
        """`tokenizer`: transformers' `PreTrainedTokenizerBase`; `vocabulary`: of the model, some have padded ones."""
        self._tokenizer = tokenizer
        self._vocabulary = max(vocabulary, len(tokenizer))
        self._lock = threading.Lock()  # what is not written in Rust keeps state between calls
        self._encode, self._decode = self._fast() or self._slow()
        self._reserved = _parameters(type(tokenizer), "apply_chat_template")

    @property
    def vocabulary(self) -> int:
        """How many tokens there are; ids are below."""
        return self._vocabulary

    @property
    def has_chat_template(self) -> bool:
        return bool(getattr(self._tokenizer, "chat_template", None))

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Raises `InvalidArgument` for text that is not Unicode (a lone surrogate)."""
        check_unicode(text)
        return self._encode(text, special) if text else []

    def decode(self, tokens: Sequence[int]) -> str:
        if not tokens:
            return ""
        if min(tokens) < 0 or max(tokens) >= self._vocabulary:
            raise InvalidArgument(f"token {max(tokens)} is outside of the vocabulary of {self._vocabulary}")
        return self._decode(list(tokens))

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        add_generation_prompt: bool = True,
        options: Mapping[str, Any] | None = None,
    ) -> str:
        if not self.has_chat_template:
            raise FailedPrecondition("the model has no chat template: it can complete texts, not chat")
        variables = dict(options or {})
        if reserved := sorted(self._reserved.intersection(variables)):
            raise InvalidArgument(f"`{reserved[0]}` cannot be a variable of the chat template")
        try:
            with self._lock:
                prompt = self._tokenizer.apply_chat_template(
                    [dict(message) for message in messages],
                    tools=[dict(tool) for tool in tools] or None,
                    add_generation_prompt=add_generation_prompt,
                    tokenize=False,
                    **variables,
                )
        except Exception as error:
            raise InvalidArgument(f"the model's chat template refuses the messages: {one_line(error)}") from error
        return str(prompt)

    def _fast(self) -> tuple[Callable[[str, bool], list[int]], Callable[[list[int]], str]] | None:
        """The tokenizer in Rust by itself, which has no state: a copy, because transformers changes its own."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:
            return None
        from tokenizers import Tokenizer

        own = Tokenizer.from_str(backend.to_str())
        own.no_truncation()
        own.no_padding()

        def encode(text: str, special: bool) -> list[int]:
            ids: list[int] = own.encode(text, add_special_tokens=special).ids
            return ids

        def decode(tokens: list[int]) -> str:
            return str(own.decode(tokens, skip_special_tokens=True))

        return encode, decode

    def _slow(self) -> tuple[Callable[[str, bool], list[int]], Callable[[list[int]], str]]:
        def encode(text: str, special: bool) -> list[int]:
            with self._lock:
                return list(self._tokenizer.encode(text, add_special_tokens=special))

        def decode(tokens: list[int]) -> str:
            with self._lock:
                return str(self._tokenizer.decode(tokens, skip_special_tokens=True))

        return encode, decode


def _parameters(kind: type, method: str) -> frozenset[str]:
    """What a template's variable may not be called: it would change what is rendered, and how.

    Of all classes: vLLM derives some that hand on whatever they are given.
    """
    found = [vars(base)[method] for base in kind.__mro__ if method in vars(base)]
    return frozenset(name for function in found for name in inspect.signature(function).parameters)
