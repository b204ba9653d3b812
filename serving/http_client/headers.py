"""The header fields of an answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping


class Headers(Mapping[str, str]):
    """Names are in lower case, and asked for so; of several fields of one name it gives the first.

    `raw` are all, in their order.
    """

    __slots__ = ("_first", "raw")

    def __init__(self, raw: list[tuple[bytes, bytes]]) -> None:
        """Of `raw` the names must be in lower case."""
        self.raw = raw
        self._first: dict[bytes, bytes] = dict(reversed(raw))

    def __getitem__(self, name: str) -> str:
        return self._first[name.encode("latin-1")].decode("latin-1")

    def __iter__(self) -> Iterator[str]:
        return (name.decode("latin-1") for name in self._first)

    def __len__(self) -> int:
        return len(self._first)
