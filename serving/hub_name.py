"""Names of models on the Hugging Face hub: `hub://owner/name@commit`, or `hub://owner/name/file.gguf@commit`. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, TypeGuard

from serving.errors import InvalidArgument

_SCHEME: Final = "hub://"
_PART: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_NAME: Final = re.compile(rf"hub://({_PART}/{_PART})((?:/{_PART})*)(?:@([0-9a-f]{{40}}))?")


@dataclass(frozen=True, slots=True)
class HubName:
    """`file`: the only one that is wanted; empty: all that the engine reads. `commit` has 40 hexadecimal digits."""

    repository: str
    file: str
    commit: str

    @classmethod
    def parse(cls, text: str) -> HubName:
        """Raises `InvalidArgument` for another form, and for what names no commit: its files could change."""
        found = _NAME.fullmatch(text)
        if found is None or ".." in text:
            raise InvalidArgument(f"{text!r} is not a model's name on the hub, such as hub://owner/name@<commit>")
        if not found[3]:
            raise InvalidArgument(
                f"{text} does not say which files it means: end it with `@` and a commit of 40 hexadecimal digits (the "
                "model's page lists them under Files)"
            )
        return cls(found[1], found[2].removeprefix("/"), found[3])


def is_hub_name(text: object) -> TypeGuard[str]:
    return isinstance(text, str) and text.startswith(_SCHEME)
