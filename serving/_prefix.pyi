"""Which replica has computed which beginnings of prompts (C++, `cpp_ext/prefix`)."""

class Chain:
    """A prompt as hashes of its whole blocks, each of which stands for everything up to its block's end."""

    def __len__(self) -> int:
        """How many blocks."""

class PrefixIndex:
    """A radix tree over chains. Belongs to one thread, but for `chain`."""

    def __init__(self, *, max_bytes: int, block_bytes: int, max_blocks: int) -> None:
        """`max_bytes` of memory: what was used least recently is lost first. A chain has at most `max_blocks`."""

    def chain(self, scope: str, text: bytes) -> Chain:
        """Prompts of different scopes have nothing in common. May be called from any thread."""

    def find(self, chain: Chain) -> list[tuple[int, int]]:
        """Each replica that holds a beginning of the chain, and how many of its blocks."""

    def insert(self, chain: Chain, replica: int, max_blocks: int = 0) -> int:
        """From now on the replica holds it, and `max_blocks` in all at most (0: no bound).

        How many blocks of the chain it held before.
        """

    def trim(self, chain: Chain, replica: int, blocks: int) -> None:
        """The replica holds no more than the first `blocks` of this chain."""

    def remove(self, replica: int) -> None:
        """The replica holds nothing."""

    def held_blocks(self, replica: int) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def nodes(self) -> int: ...
