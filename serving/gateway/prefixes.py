"""Which replica has computed which prompts, as far as this gateway has sent them there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from serving.errors import FailedPrecondition
from serving.gateway.catalog import ModelKey

if TYPE_CHECKING:
    from serving._prefix import Chain, PrefixIndex

# About a block of an engine's cache (32 tokens of 4 bytes), below which engines do not tell prompts apart either.
BLOCK_BYTES: Final = 128
_MAX_BLOCKS: Final = 16_384  # of one prompt: 2 MiB


class Prefixes:
    """Replicas are numbers that are never used again. Belongs to one event loop, but for `chain`."""

    def __init__(self, max_bytes: int) -> None:
        """Raises `FailedPrecondition` when the C++ part was not built."""
        self._index = _index(max_bytes)

    def chain(self, model: ModelKey, text: bytes) -> Chain:
        """From any thread."""
        return self._index.chain(str(model), text)

    def known_bytes(self, chain: Chain) -> dict[int, int]:
        """Of the prompt's beginning, by replica."""
        return {replica: blocks * BLOCK_BYTES for replica, blocks in self._index.find(chain)}

    def sent(self, chain: Chain, replica: int, cache_bytes: float | None) -> int:
        """The replica computes it, and has room for `cache_bytes` of prompts in all (None: not known).

        How many blocks of it were there before.
        """
        limit = 0 if cache_bytes is None else max(1, int(cache_bytes / BLOCK_BYTES))
        return self._index.insert(chain, replica, limit)

    def take_back(self, chain: Chain, replica: int, blocks: int) -> None:
        """It did not; what was there before is."""
        self._index.trim(chain, replica, blocks)

    def held(self, replica: int) -> float:
        """How much it holds, in blocks."""
        return self._index.held_blocks(replica)

    def forget(self, replica: int) -> None:
        self._index.remove(replica)

    @property
    def bytes(self) -> int:
        """Memory of the index."""
        return self._index.bytes


def _index(max_bytes: int) -> PrefixIndex:
    try:
        from serving._prefix import PrefixIndex
    except ImportError as error:
        raise FailedPrecondition(
            f"the gateway needs serving._prefix, which was not built: run `make setup` ({error})"
        ) from error
    return PrefixIndex(max_bytes=max_bytes, block_bytes=BLOCK_BYTES, max_blocks=_MAX_BLOCKS)
