"""The index of prompts, as Python sees it, beside a list of texts."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving._prefix import Chain, PrefixIndex
from serving.errors import FailedPrecondition
from serving.gateway.catalog import ModelKey
from serving.gateway.prefixes import BLOCK_BYTES, Prefixes

MODEL = ModelKey("default", "app", "chat")
BLOCK = 4


def index_of(max_bytes: int = 1 << 20) -> PrefixIndex:
    return PrefixIndex(max_bytes=max_bytes, block_bytes=BLOCK, max_blocks=100)


def common_bytes(one: bytes, other: bytes) -> int:
    pairs = zip(one, other, strict=False)
    return next((at for at, (left, right) in enumerate(pairs) if left != right), min(len(one), len(other)))


texts = st.lists(st.sampled_from([b"aaaa", b"bbbb", b"aabb"]), max_size=6).map(b"".join)
steps = st.lists(
    st.tuples(st.sampled_from(["insert", "insert", "insert", "remove"]), texts, st.integers(0, 3)), max_size=40
)


@settings(max_examples=300, deadline=None)
@given(steps, texts)
def test_it_finds_what_a_list_of_texts_holds(given_steps: list[tuple[str, bytes, int]], asked: bytes) -> None:
    index = index_of()
    plain: dict[int, list[bytes]] = {}

    def wanted(text: bytes) -> dict[int, int]:
        common = {
            replica: max((common_bytes(text, one) // BLOCK for one in known), default=0)
            for replica, known in plain.items()
        }
        return {replica: blocks for replica, blocks in common.items() if blocks}

    for what, text, replica in given_steps:
        if what == "remove":
            index.remove(replica)
            plain.pop(replica, None)
        else:
            before = wanted(text).get(replica, 0)
            assert index.insert(index.chain("m", text), replica) == before
            plain.setdefault(replica, []).append(text)
        assert dict(index.find(index.chain("m", asked))) == wanted(asked)
        assert dict(index.find(index.chain("m", text))) == wanted(text)
    for replica in list(plain):
        index.remove(replica)
    assert (index.bytes, index.nodes) == (0, 0)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(texts, st.integers(0, 3), st.integers(0, 12), st.booleans()), max_size=60))
def test_bounds_hold_and_nothing_is_found_that_was_not_put_there(
    given_steps: list[tuple[bytes, int, int, bool]],
) -> None:
    index = index_of(max_bytes=3000)
    put: dict[int, list[bytes]] = {}
    for text, replica, limit, trims in given_steps:
        chain = index.chain("m", text)
        if trims:
            index.trim(chain, replica, limit)
            assert dict(index.find(chain)).get(replica, 0) <= limit
            continue
        index.insert(chain, replica, limit)
        put.setdefault(replica, []).append(text)
        assert index.bytes <= 3000
        assert limit == 0 or index.held_blocks(replica) <= limit
        for found, blocks in index.find(chain):
            assert any(text[: blocks * BLOCK] == one[: blocks * BLOCK] for one in put[found])
    for replica in put:
        index.remove(replica)
    assert (index.bytes, index.nodes) == (0, 0)


def test_models_have_nothing_in_common() -> None:
    prefixes = Prefixes(1 << 20)
    text = b"x" * 10 * BLOCK_BYTES
    chain = prefixes.chain(MODEL, text)
    assert prefixes.sent(chain, 1, None) == 0
    assert prefixes.known_bytes(prefixes.chain(MODEL, text)) == {1: 10 * BLOCK_BYTES}
    assert prefixes.known_bytes(prefixes.chain(ModelKey("default", "app", "other"), text)) == {}
    prefixes.forget(1)
    assert prefixes.bytes == 0


def test_another_process_has_other_hashes() -> None:
    one, other = index_of(), index_of()
    chain = one.chain("m", b"abcd")
    one.insert(chain, 1)
    other.insert(chain, 1)
    assert one.find(one.chain("m", b"abcd")) == [(1, 1)]
    assert other.find(other.chain("m", b"abcd")) == []


def test_chains_are_made_on_any_thread() -> None:
    prefixes = Prefixes(1 << 20)
    text = bytes(range(256)) * 4096
    prefixes.sent(prefixes.chain(MODEL, text), 3, None)
    made: list[Chain | None] = [None] * 8

    def make(at: int) -> None:
        made[at] = prefixes.chain(MODEL, text)

    threads = [threading.Thread(target=make, args=(at,)) for at in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [prefixes.known_bytes(chain) for chain in made if chain is not None] == [{3: len(text)}] * 8


def test_without_the_built_part_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "serving._prefix", None)
    with pytest.raises(FailedPrecondition, match="run `make setup`"):
        Prefixes(1 << 20)


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="block_bytes"):
        PrefixIndex(max_bytes=1, block_bytes=0, max_blocks=1)
    with pytest.raises(TypeError):
        index_of().chain("m", "text")  # type: ignore[arg-type]
