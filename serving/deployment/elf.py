"""Tells a whole shared library from one that a broken build or a full disk left half-written. Loads nothing.

A linker writes the section header table last, at the end of the file; the ELF header says where it lies.
Layout: System V ABI, ELF-64 object file format, little-endian.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

_MAGIC: Final = b"\x7fELF\x02\x01"
_HEADER: Final = struct.Struct("<16sHHIQQQIHHHHHH")


def is_whole(library: Path) -> bool:
    """True for a 64-bit ELF object that is as long as its header says. Raises `OSError` when unreadable."""
    with library.open("rb") as file:
        data = file.read(_HEADER.size)
    if len(data) < _HEADER.size or not data.startswith(_MAGIC):
        return False
    fields = _HEADER.unpack(data)
    sections_at, section_size, sections = fields[6], fields[11], fields[12]
    end = int(sections_at) + int(section_size) * int(sections)
    return int(sections_at) > 0 and library.stat().st_size >= end
