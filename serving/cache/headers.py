"""Headers between clients, gateways and semantic caches. Pure."""

from __future__ import annotations

from typing import Final

from serving.errors import InvalidArgument

# In answers to clients.
CACHE: Final = "x-mesh-cache"  # "exact" or "semantic" for a stored answer, "miss" for one that was generated
SIMILARITY: Final = "x-mesh-cache-similarity"  # of the two questions, to 1
ENTRY: Final = "x-mesh-cache-entry"  # names the stored answer, for its removal
SCOPE: Final = "x-mesh-cache-scope"  # names all answers that may be shared with this one, for their removal

# In requests of clients.
TAGS: Final = "x-mesh-cache-tags"  # of the answer that is generated: names for its removal, with commas between

# Between gateways and caches only. Gateways set them themselves, whatever clients send.
TENANT: Final = "x-mesh-tenant"
MODEL: Final = "x-mesh-model"
REVISION: Final = "x-mesh-revision"
TICKET: Final = "x-mesh-cache-ticket"

AGAIN: Final = b"again"
GENERATE: Final = b"generate"

MAX_TAGS: Final = 16
_MAX_TAG: Final = 128


def read_tags(text: str) -> tuple[str, ...]:
    """Raises `InvalidArgument` for too many, ones that are too long, or not printable ASCII."""
    tags = tuple(dict.fromkeys(tag for part in text.split(",") if (tag := part.strip())))
    if len(tags) > MAX_TAGS or not all(len(tag) <= _MAX_TAG and tag.isascii() and tag.isprintable() for tag in tags):
        raise InvalidArgument(f"{TAGS}: at most {MAX_TAGS} tags of at most {_MAX_TAG} characters of ASCII are taken")
    return tags
