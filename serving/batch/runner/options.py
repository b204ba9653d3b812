"""What runners of batches do when nothing else is said, for those who check specs, too. Pure, and imports nothing."""

from __future__ import annotations

from typing import Final

DEFAULT_CONCURRENCY: Final = 2
DEFAULT_WORKERS: Final = 1
DEFAULT_MAX_ATTEMPTS: Final = 16  # with the rests between them more than an hour
