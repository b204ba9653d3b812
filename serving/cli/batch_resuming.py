"""`mesh batch resume`: what an ended batch left without an answer becomes a batch of its own."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from serving.batch.orders.batch import ATTEMPTS_EXHAUSTED
from serving.cli.batch_following import ENDED
from serving.cli.batch_lines import Left, write_rest
from serving.cli.gateway_calls import Gateway
from serving.errors import FailedPrecondition, NotFound

_OF: Final = "resumes"  # in the metadata of the new batch: the id of the one that it goes on with
_MOST_METADATA: Final = 16
_INPUT: Final = "input.jsonl"
_REST: Final = "rest.jsonl"


@dataclass(frozen=True, slots=True)
class Rest:
    """What is wanted of the new batch. `window`: "" for the old one's. `also_refused`: also what a model refused."""

    window: str = ""
    also_refused: bool = False
    in_order: bool = False
    mode: str = "shared"


@dataclass(frozen=True, slots=True)
class Resumed:
    """`made` is the new batch; None where there is nothing to be ordered. `why` is a sentence for people."""

    batch: dict[str, Any]
    why: str
    lines: int = 0
    made: dict[str, Any] | None = None

    def shape(self) -> dict[str, Any]:
        """As JSON."""
        return {"batch": self.batch, "lines": self.lines, "resumed": self.made, "why": self.why}


async def resumed(gateway: Gateway, batch_id: str, wanted: Rest, told: Callable[[str], None]) -> Resumed:
    """Raises `FailedPrecondition` for a batch whose input was refused, `NotFound` where its input is gone."""
    batch = await gateway.batch(batch_id)
    if batch["status"] not in ENDED:
        return Resumed(batch, f"batch {batch_id} is {batch['status']}: it goes on by itself, nothing was ordered")
    if batch["status"] == "failed" and not _given_up(batch):
        raise FailedPrecondition(
            f"batch {batch_id} has failed: its input is wrong (`mesh batch show {batch_id}`); "
            "correct the file and submit it"
        )
    with tempfile.TemporaryDirectory(prefix="mesh-batch-") as name:
        folder = Path(name)
        left = await _left(gateway, batch, folder, wanted, told)
        refused = f"; {left.refused:,} were refused (--also-refused orders them)" if left.refused else ""
        if not left.lines:
            return Resumed(batch, f"batch {batch_id} has an answer for each of its {left.total:,} lines{refused}")
        told(f"ordering {left.lines:,} lines")
        made = await _order(gateway, batch, folder / _REST, wanted)
        why = f"{left.lines:,} of {left.total:,} lines had no answer{refused}; they are batch {made['id']}"
        if _OF not in (made["metadata"] or {}):
            why += f", which does not say `{_OF}`: there are {_MOST_METADATA} metadata already"
        return Resumed(batch, why, left.lines, made)


def _given_up(batch: dict[str, Any]) -> bool:
    """Its input was good."""
    return any(one["code"] == ATTEMPTS_EXHAUSTED for one in (batch["errors"] or {"data": []})["data"])


async def _left(
    gateway: Gateway, batch: dict[str, Any], folder: Path, wanted: Rest, told: Callable[[str], None]
) -> Left:
    told(f"fetching the files of {batch['id']}")
    try:
        await gateway.fetch_file(batch["input_file_id"], folder / _INPUT)
    except NotFound as error:
        raise NotFound(f"the input of batch {batch['id']} is gone, the rest cannot be told: {error.message}") from error
    outcomes = []
    for name in ("output_file_id", "error_file_id"):
        if batch[name]:
            outcomes.append(folder / f"{name}.jsonl")
            await gateway.fetch_file(batch[name], outcomes[-1])
    return await asyncio.to_thread(
        write_rest, folder / _INPUT, tuple(outcomes), folder / _REST, also_refused=wanted.also_refused
    )


async def _order(gateway: Gateway, batch: dict[str, Any], rest: Path, wanted: Rest) -> dict[str, Any]:
    """Once, however often it is asked: the keys are made of the batch and of the lines that are left."""
    key = f"resume-{batch['id']}-{(await asyncio.to_thread(_digest, rest))[:32]}"
    sent = await gateway.send_file(rest, f"rest-of-{batch['id']}.jsonl", key=key)
    metadata = dict(batch["metadata"] or {})
    if len(metadata) < _MOST_METADATA or _OF in metadata:
        metadata[_OF] = batch["id"]
    wish = {
        "input_file_id": sent["id"],
        "endpoint": batch["endpoint"],
        "completion_window": wanted.window or batch["completion_window"],
        "metadata": metadata,
        "in_order": wanted.in_order,
        "mode": wanted.mode,
    }
    return await gateway.create_batch(wish, key=key)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
