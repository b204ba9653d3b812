"""From inputs to tokens: what is taken, what is refused, and where it stands."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from serving.embedding.inputs import MAX_INPUTS, InputRefused, Inputs
from serving.embedding.openvino_embedder import OpenVinoEmbedder
from serving.errors import InvalidArgument


def read(embedder: OpenVinoEmbedder, inputs: list[Any], **options: Any) -> list[Any]:
    async def run() -> list[Any]:
        reading = Inputs(embedder, cut=False)
        try:
            return await reading.read(inputs, **options)
        finally:
            reading.close()

    return asyncio.run(run())


def test_texts_get_special_tokens_and_tokens_are_taken_as_they_are(embedder: OpenVinoEmbedder) -> None:
    text, tokens = read(embedder, ["hello world", [7592, 2088]])
    assert text == (101, 7592, 2088, 102)
    assert tokens == [7592, 2088]


def test_many_and_long_texts_are_read_in_their_order(embedder: OpenVinoEmbedder) -> None:
    texts = [f"number {place} " + "word " * (place % 50) for place in range(300)]
    assert read(embedder, list(texts)) == [embedder.tokenize(text).ids for text in texts]


@pytest.mark.parametrize("beside", [[], ["x" * 10_000]])  # read here, and on the thread for long ones
@pytest.mark.parametrize(
    ("wrong", "text", "code"),
    [
        ("", "is empty", "invalid_value"),
        ([], "is empty", "invalid_value"),
        ("word " * 300, "has more than the 256 tokens", "context_length_exceeded"),
        ([101] * 257, "has 257 tokens, more than the 256", "context_length_exceeded"),
        ([5, 30522], "has the token 30522, which this model does not have", "invalid_value"),
        ([5, -1], "has the token -1", "invalid_value"),
        ("a \ud800 b", "lone surrogate", "invalid_value"),
    ],
)
def test_what_is_refused(embedder: OpenVinoEmbedder, beside: list[str], wrong: Any, text: str, code: str) -> None:
    with pytest.raises(InputRefused, match=text) as caught:
        read(embedder, ["fine", [1, 2], wrong, *beside])
    assert (caught.value.place, caught.value.error_code) == (2, code)


def test_the_end_is_left_out_where_that_is_wanted(embedder: OpenVinoEmbedder) -> None:
    (cut,) = read(embedder, ["word " * 300], cut=True)
    assert len(cut) == 256
    with pytest.raises(InputRefused, match="tokens are never cut"):
        read(embedder, [[101] * 257], cut=True)


def test_the_number_of_inputs_is_bounded(embedder: OpenVinoEmbedder) -> None:
    with pytest.raises(InvalidArgument, match=f"there are {MAX_INPUTS + 1} inputs, at most {MAX_INPUTS}"):
        read(embedder, ["x"] * (MAX_INPUTS + 1))
