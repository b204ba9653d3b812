"""What a job's own steps, beside the processor, ask of Ray."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from serving.errors import InvalidArgument


@dataclass(frozen=True)
class StepResources:
    """`cpus` of each task of a step, and how many `tasks` of one step there may be at once; None: as Ray Data finds
    best, which for small `cpus` is very many, each in a process of its own."""

    cpus: float = 1.0
    tasks: int | None = None

    def __post_init__(self) -> None:
        if self.cpus < 0 or (self.tasks is not None and self.tasks < 1):
            raise InvalidArgument(f"{self}: cpus must not be below 0, tasks above it")

    def options(self) -> dict[str, Any]:
        """Of `map_batches` and `read_datasource`."""
        return {"num_cpus": self.cpus, "concurrency": self.tasks}
