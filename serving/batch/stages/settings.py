"""What a processor is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from serving.batch.rows.request import CHAT, COMPLETIONS, EMBEDDINGS
from serving.batch.sending.places import Fixed, Target
from serving.batch.sending.settings import SenderConfig
from serving.errors import InvalidArgument, NotSupported

CHAT_TASK: Final = "chat"
COMPLETION_TASK: Final = "completion"
EMBEDDING_TASK: Final = "embedding"
KSERVE_TASK: Final = "kserve"
RAW_TASK: Final = "raw"
TASKS: Final = (CHAT_TASK, COMPLETION_TASK, EMBEDDING_TASK, KSERVE_TASK, RAW_TASK)
PATH_OF: Final[Mapping[str, str]] = {CHAT_TASK: CHAT, COMPLETION_TASK: COMPLETIONS, EMBEDDING_TASK: EMBEDDINGS}
KEEP: Final = "keep"
RAISE: Final = "raise"


@dataclass(frozen=True)
class ProcessorConfig:
    """`task` says what a row is, and `target` who answers it:

    - `chat`: `messages`, or `prompt`, before which `system` is put;
    - `completion`: `prompt`, as it is;
    - `embedding`: `input`, else `prompt`;
    - `kserve`: columns named in `inputs` (tensor → datatype of numpy) to the tensors of a model; its outputs (all, or
      `outputs`) become columns. `batched`: the model's tensors have a first dimension that rows do not have;
    - `raw`: a line of an OpenAI batch file: `custom_id`, `url`, and `body`, an object or its JSON.

    `template` makes `prompt` of other columns, such as `"Translate: {text}"`. `sampling` are fields of every request
    (`max_tokens`, `temperature`, ...); a row's own stand in its column `sampling_params`, and how many tokens its
    answer is expected to have in `expected_tokens`. Rows that fail are kept with `__error__` unless `on_error` is
    `raise`.

    `concurrency` workers, or from one number of them to another, hand `batch_size` rows at a time to their senders;
    each has `max_concurrent_batches` of them on the way. `priority` is what KServe models get that have priority levels
    (Triton: 1 is the most urgent one, 0 the model's default).
    """

    target: Target
    task: str = CHAT_TASK
    system: str = ""
    template: str = ""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    batched: bool = True
    priority: int = 0
    on_error: str = KEEP
    concurrency: int | tuple[int, int] = 1
    batch_size: int = 256
    max_concurrent_batches: int = 4
    num_cpus: float = 0.5
    sender: SenderConfig = field(default_factory=SenderConfig)

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise InvalidArgument(f"task: {self.task!r} is not known (allowed: {', '.join(TASKS)})")
        if self.on_error not in (KEEP, RAISE):
            raise InvalidArgument(f"on_error: {self.on_error!r} is not known (allowed: {KEEP}, {RAISE})")
        if self.task == KSERVE_TASK and not self.inputs:
            raise InvalidArgument("inputs: the task kserve needs the columns that are tensors, with their datatypes")
        if self.task == KSERVE_TASK and isinstance(self.target, Fixed):
            raise NotSupported("target: tensors cannot be sent to a fixed address; name the mesh with `Discovered`")
        if self.task != KSERVE_TASK and (self.inputs or self.outputs or self.priority):
            raise InvalidArgument(f"inputs, outputs and priority are of the task kserve, not of {self.task}")
        for name, datatype in self.inputs.items():
            _check_datatype(name, datatype)
        if self.batch_size < 1 or self.max_concurrent_batches < 1 or self.num_cpus < 0:
            raise InvalidArgument("batch_size and max_concurrent_batches must be above 0, num_cpus not below")
        least, most = self.workers
        if not 1 <= least <= most:
            raise InvalidArgument(f"concurrency: {self.concurrency!r}; a number above 0, or the least and the most")

    @property
    def workers(self) -> tuple[int, int]:
        """The least and the most."""
        return self.concurrency if isinstance(self.concurrency, tuple) else (self.concurrency, self.concurrency)


def _check_datatype(name: str, datatype: str) -> None:
    try:
        np.dtype(datatype)
    except TypeError as error:
        raise InvalidArgument(f"inputs: {name}: {datatype!r} is no datatype of numpy, nor `str` or `bytes`") from error
