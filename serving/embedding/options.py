"""The words and defaults of an embedding model's options. Pure: specs are checked with them."""

from __future__ import annotations

from typing import Final

INT8: Final = "int8"
F32: Final = "f32"
PRECISIONS: Final = (INT8, F32)
REFUSE: Final = "refuse"
CUT: Final = "cut"
TOO_LONG: Final = (REFUSE, CUT)

MIN_TOKENS: Final = 3  # [CLS], one of the text, [SEP]
DEFAULT_BATCH_INPUTS: Final = 64
DEFAULT_BATCH_TOKENS: Final = (
    512  # of one inference with its padding; more are not faster on CPUs, and others wait for them
)
DEFAULT_REQUESTS: Final = 1024
DEFAULT_WAITING_TOKENS: Final = 262_144
