"""`LLMProcessor`: rows of a Ray Data pipeline through models of the mesh."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from serving.batch.stages.report import Report, report_of
from serving.batch.stages.settings import ProcessorConfig
from serving.batch.stages.worker import RowWorker, UserStep

if TYPE_CHECKING:
    from ray.data import Dataset


class LLMProcessor:
    """A dataset in, the same rows with their answers out, each with all its columns; nothing runs before it is read.

    `preprocess` and `postprocess` take a row as a dictionary, and what they give is added to it: columns that requests
    are made of, and columns of answers. Rows that fail do not come to `postprocess`. What they raise ends the job.
    """

    def __init__(
        self, config: ProcessorConfig, *, preprocess: UserStep | None = None, postprocess: UserStep | None = None
    ) -> None:
        self.config = config
        self._preprocess = preprocess
        self._postprocess = postprocess
        self._name = secrets.token_hex(8)

    def __call__(self, dataset: Dataset) -> Dataset:
        """Ray Data holds back the reader while workers have enough: `batch_size` rows in each of their calls."""
        from ray.data import ActorPoolStrategy

        config = self.config
        least, most = config.workers
        pool = ActorPoolStrategy(
            min_size=least,
            max_size=most,
            max_tasks_in_flight_per_actor=2 * config.max_concurrent_batches,
            max_concurrent_calls_per_actor=config.max_concurrent_batches,
        )
        return dataset.map_batches(
            RowWorker,
            fn_constructor_args=self.worker_arguments(),
            batch_format="pyarrow",
            batch_size=config.batch_size,
            compute=pool,
            num_cpus=config.num_cpus,
        )

    def worker_arguments(self) -> tuple[Any, ...]:
        """Of `RowWorker`, for pipelines that call `map_batches` themselves."""
        return self.config, self._preprocess, self._postprocess, self._name

    def report(self) -> Report:
        """What limited the jobs of this processor until about a second ago, and by what. Ray must be connected."""
        from serving.batch.stages.telling import told

        return report_of(told(self._name))

    def forget(self) -> None:
        """Removes what its workers have told, which the cluster keeps otherwise until it ends."""
        from serving.batch.stages.telling import forget

        forget(self._name)
