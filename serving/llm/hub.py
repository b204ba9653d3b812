"""Fetches models from the Hugging Face hub into its own cache on this node (`HF_HOME`, shared by all that use it)."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from serving.errors import MeshError, NotFound, Unavailable
from serving.hub_name import HubName
from serving.llm.engine import OPENVINO
from serving.llm.engine_errors import one_line

_TEXTS: Final = ("*.json", "*.txt", "*.jinja", "*.model", "*.tiktoken")
_OPENVINO: Final = ("openvino_*.xml", "openvino_*.bin")
_VLLM: Final = ("*.safetensors", "*.py")
_MIB: Final = 1 << 20


def fetch(
    name: HubName, engine: str, tell: Callable[[str], None], *, endpoint: str | None = None, cache: Path | None = None
) -> Path:
    """The folder, or the file, with what `engine` reads of it. Blocking, may take hours; `tell` hears how far it is.

    Uses `HF_TOKEN`, `HF_ENDPOINT`, `HF_HOME` and `HF_HUB_OFFLINE` of the environment; `endpoint` and `cache` go before
    them. What is in the cache needs no network.
    Raises `NotFound` for what the hub does not have or does not show, `Unavailable` when it cannot be asked.
    """
    from huggingface_hub import snapshot_download

    patterns = [name.file] if name.file else [*_TEXTS, *(_OPENVINO if engine == OPENVINO else _VLLM)]
    tell(f"looking for {name.repository} on the hub")
    try:
        folder = Path(
            snapshot_download(
                name.repository,
                revision=name.commit,
                allow_patterns=patterns,
                ignore_patterns=["*/*"] if not name.file else None,
                tqdm_class=_progress(name.repository, tell),
                endpoint=endpoint,
                cache_dir=cache,
            )
        )
    except (OSError, ValueError) as error:
        raise _mesh_error(name, error) from error
    if name.file and not (folder / name.file).is_file():
        raise NotFound(f"{name.repository} has no file {name.file} at {name.commit}")
    return folder / name.file


def _mesh_error(name: HubName, error: Exception) -> MeshError:
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, RevisionNotFoundError):
        return NotFound(f"{name.repository} has no commit {name.commit} on the hub")
    if isinstance(error, RepositoryNotFoundError):
        return NotFound(
            f"the hub has no model {name.repository}, or shows it to its members only: set HF_TOKEN in the env of the "
            "deployment"
        )
    return Unavailable(
        f"{name.repository} cannot be fetched from the hub, and this node's cache (HF_HOME) does not hold it: "
        f"{one_line(error)}"
    )


def _progress(what: str, tell: Callable[[str], None]) -> type:
    """A progress bar that is told instead of drawn: of bytes, never backwards."""
    from tqdm import tqdm

    most = 0

    class Told(tqdm):  # type: ignore[misc] # no types
        monitor_interval = 0  # no thread of its own

        def __init__(self, *arguments: Any, **options: Any) -> None:
            options.pop("name", None)
            super().__init__(*arguments, **{**options, "file": io.StringIO(), "disable": False})

        def display(self, *_: Any, **__: Any) -> None:
            nonlocal most
            if self.unit == "B" and self.n > most and self.total:
                most = int(self.n)
                tell(f"downloads {what}: {most / _MIB:.1f} of {self.total / _MIB:.1f} MiB")

    return Told
