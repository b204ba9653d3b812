"""The key-value pairs at the beginning of a GGUF file: what a model says of itself, without its weights.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little endian.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final

from serving.errors import FailedPrecondition

Scalar = int | float | bool | str

_MAGIC: Final = b"GGUF"
_FORMATS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING: Final = 8
_ARRAY: Final = 9
_MOST_PAIRS: Final = 1_000_000  # and tensors
# Tensor type → numbers in a block, bytes of it: the common ones. Of others only the beginning is checked.
_BLOCKS: Final = {
    0: (1, 4),
    1: (1, 2),
    30: (1, 2),
    2: (32, 18),
    3: (32, 20),
    8: (32, 34),
    12: (256, 144),
    14: (256, 210),
}
_ALIGNMENT: Final = 32
_MOST_DIMENSIONS: Final = 8
_MOST_TEXT: Final = 64 << 20  # bytes; chat templates have some thousand


def read_header(path: Path) -> dict[str, Scalar]:
    """Every pair but the arrays (a vocabulary's tokens and merges), which are passed over.

    Raises `FailedPrecondition` for a file that is no GGUF, is cut off (engines map it into memory and read past its
    end), or cannot be read.
    """
    try:
        with path.open("rb") as file:
            found, tensors = _pairs(file, path)
            end = _end_of_weights(file, tensors, found.get("general.alignment", _ALIGNMENT))
            size = path.stat().st_size
    except OSError as error:
        raise FailedPrecondition(f"cannot read the model {path}: {error.strerror or error}") from error
    except (struct.error, UnicodeDecodeError, EOFError, KeyError, OverflowError) as error:
        raise FailedPrecondition(f"{path} is a damaged GGUF file: its header ends or breaks off ({error!r})") from error
    if size < end:
        raise FailedPrecondition(f"{path} is cut off: it has {size} bytes, its weights end at {end}; copy it again")
    return found


def _pairs(file: BinaryIO, path: Path) -> tuple[dict[str, Scalar], int]:
    """The pairs, and how many tensors follow."""
    if file.read(4) != _MAGIC:
        raise FailedPrecondition(f"{path} is not a GGUF file: it does not begin with the letters GGUF")
    version, tensors, pairs = _unpack(file, "IQQ")
    if version not in (2, 3):
        raise FailedPrecondition(f"{path} is GGUF version {version}; versions 2 and 3 can be read")
    if max(pairs, tensors) > _MOST_PAIRS:
        raise EOFError(f"it claims {pairs} pairs and {tensors} tensors")
    found: dict[str, Scalar] = {}
    for _ in range(pairs):
        name = _text(file)
        (kind,) = _unpack(file, "I")
        if kind == _ARRAY:
            _pass_over_array(file)
        else:
            found[name] = _scalar(file, kind)
    return found, tensors


def _end_of_weights(file: BinaryIO, tensors: int, alignment: Scalar) -> int:
    """Bytes from the beginning of the file."""
    end = 0
    for _ in range(tensors):
        _text(file)
        (dimensions,) = _unpack(file, "I")
        if dimensions > _MOST_DIMENSIONS:
            raise EOFError(f"it claims a tensor of {dimensions} dimensions")
        numbers = math.prod(_unpack(file, f"{dimensions}Q"))
        kind, offset = _unpack(file, "IQ")
        in_block, block_bytes = _BLOCKS.get(kind, (1, 0))
        end = max(end, offset + numbers // in_block * block_bytes)
    step = alignment if isinstance(alignment, int) and alignment > 0 else _ALIGNMENT
    return -(-file.tell() // step) * step + end if tensors else 0


def _unpack(file: BinaryIO, fields: str) -> tuple[int, ...]:
    layout = struct.Struct("<" + fields)
    return layout.unpack(file.read(layout.size))


def _text(file: BinaryIO) -> str:
    (size,) = _unpack(file, "Q")
    if size > _MOST_TEXT:
        raise EOFError(f"it claims a text of {size} bytes")
    data = file.read(size)
    if len(data) < size:
        raise EOFError("a text is cut off")
    return data.decode("utf-8", "replace")


def _scalar(file: BinaryIO, kind: int) -> Scalar:
    return _text(file) if kind == _STRING else _unpack(file, _FORMATS[kind])[0]


def _pass_over_array(file: BinaryIO) -> None:
    kind, count = _unpack(file, "IQ")
    if kind in _FORMATS:
        file.seek(count * struct.calcsize("<" + _FORMATS[kind]), 1)
        return
    skip: Callable[[BinaryIO], object] = {_STRING: _text, _ARRAY: _pass_over_array}[kind]
    for _ in range(count):
        skip(file)
