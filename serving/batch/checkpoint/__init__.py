"""Each row once, and resumable: identifiers of rows, parts, and a log that one driver at a time goes on with."""

from __future__ import annotations

from serving.batch.checkpoint.checkpoint import Checkpoint
from serving.batch.checkpoint.files import DiskFull, Files
from serving.batch.checkpoint.identifiers import IDENTIFIER, IdentifierSet
from serving.batch.checkpoint.log import Overtaken
from serving.batch.checkpoint.parts import Counts, Part, PartFormat, PartWriter
from serving.batch.checkpoint.state import Batch, State

__all__ = [
    "IDENTIFIER",
    "Batch",
    "Checkpoint",
    "Counts",
    "DiskFull",
    "Files",
    "IdentifierSet",
    "Overtaken",
    "Part",
    "PartFormat",
    "PartWriter",
    "State",
]
