"""Text ↔ token ids with OpenVINO GenAI's tokenizer, and prompts by the model's chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from serving.errors import FailedPrecondition, InvalidArgument
from serving.llm.engine import TextTooLong
from serving.llm.engine_errors import one_line
from serving.llm.unicode import check_unicode

# Texts on which joining the tokens' bytes must give what the tokenizer's own decoder gives: spaces that some
# vocabularies drop or tidy, several bytes to a character, line ends.
_SAMPLES: Final = (
    "Hello, world! It's  a test , isn't it ?",
    " leading and trailing ",
    "naïve 你好 🙂 Привет",
    'def f(x):\n\treturn {"a": [1, 2.5]}\r\n\n',
)
_AT_ONCE: Final = 4096
_LONG: Final = 1 << 15  # pairs of words


class OpenVinoCodec:
    """A `TextCodec`. All methods may be called from any thread.

    Where the vocabulary is made of bytes (nearly all models of today), tokens are decoded by joining their bytes:
    about a hundred times cheaper than a call of the tokenizer, which also leaves out half a character silently.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        vocabulary: dict[bytes, int] = tokenizer.get_vocab()
        self._vocabulary = max(vocabulary.values(), default=-1) + 1
        self._pieces = _byte_pieces(tokenizer, vocabulary)
        self._cut = _cut_after(tokenizer)

    @property
    def vocabulary(self) -> int:
        """How many tokens there are; ids are below."""
        return self._vocabulary

    @property
    def has_chat_template(self) -> bool:
        return bool(self._tokenizer.chat_template)

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Raises `InvalidArgument` for text that is not Unicode (a lone surrogate), and `TextTooLong`."""
        check_unicode(text)
        if not text:
            return []
        ids = _encode(self._tokenizer, text, special)
        if self._cut and len(ids) >= self._cut:
            raise TextTooLong(f"the text has {self._cut} tokens or more; this model's tokenizer takes no longer ones")
        return ids

    def decode(self, tokens: Sequence[int]) -> str:
        if self._pieces is None:
            return str(self._tokenizer.decode(list(tokens))) if tokens else ""
        pieces = self._pieces
        try:
            return b"".join([pieces[token] for token in tokens]).decode("utf-8", "replace")
        except IndexError:
            raise InvalidArgument(f"token {max(tokens)} is outside of the vocabulary of {len(pieces)}") from None

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
        try:
            prompt: str = self._tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                add_generation_prompt,
                tools=[dict(tool) for tool in tools] or None,
                extra_context=dict(options) if options else None,
            )
        except (RuntimeError, TypeError, ValueError) as error:
            raise InvalidArgument(f"the model's chat template refuses the messages: {one_line(error)}") from error
        return prompt


def _encode(tokenizer: Any, text: str, special: bool) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=special).input_ids.data.reshape(-1).tolist()
    return ids


def _cut_after(tokenizer: Any) -> int:
    """After how many tokens it cuts a text, silently: 8192 for GGUF files, whatever it is told. 0: not soon."""
    long, longer = (len(_encode(tokenizer, "a b " * words, special=False)) for words in (_LONG, 2 * _LONG))
    return long if long == longer else 0


def _byte_pieces(tokenizer: Any, vocabulary: Mapping[bytes, int]) -> list[bytes] | None:
    """Each token's bytes, none for special ones; None where joining them is not what the tokenizer decodes to."""
    pieces = [b""] * (max(vocabulary.values(), default=-1) + 1)
    for piece, token in vocabulary.items():
        pieces[token] = piece
    for token in _special_tokens(tokenizer, len(pieces)):
        pieces[token] = b""
    for text in _SAMPLES:
        ids = _encode(tokenizer, text, special=False)
        if b"".join(pieces[token] for token in ids).decode("utf-8", "replace") != tokenizer.decode(ids):
            return None
    return pieces


def _special_tokens(tokenizer: Any, count: int) -> list[int]:
    """Those that a decoded text does not show."""
    found: list[int] = []
    for start in range(0, count, _AT_ONCE):
        ids = [[token] for token in range(start, min(start + _AT_ONCE, count))]
        shown = tokenizer.decode(ids, skip_special_tokens=False)
        kept = tokenizer.decode(ids, skip_special_tokens=True)
        found += [token for (token,), all_text, text in zip(ids, shown, kept, strict=True) if all_text and not text]
    return found
