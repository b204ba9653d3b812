"""What the tests of the backends do with a running `tritonserver`."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton_grpc
from numpy.typing import NDArray
from tritonclient.utils import np_to_triton_dtype

Array = NDArray[Any]
_numbers = itertools.count()


@dataclass
class BackendServer:
    """A server in explicit mode. `pid` is its process."""

    client: triton_grpc.InferenceServerClient
    repository: Path
    log: Path
    pid: int
    loaded: list[str] = field(default_factory=list)

    def add(self, name: str, config: str | None, files: Mapping[str, bytes | Path]) -> str:
        """Puts a model into the repository under a name of its own (`name` with a number), which is returned.

        `files` are by path relative to the model's folder; `{name}` in the config stands for the name.
        """
        unique = f"{name}_{next(_numbers)}"
        folder = self.repository / unique
        (folder / "1").mkdir(parents=True)
        if config is not None:
            (folder / "config.pbtxt").write_text(config.replace("{name}", unique))
        for path, content in files.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Path):
                shutil.copyfile(content, target)
            else:
                target.write_bytes(content)
        return unique

    def load(self, name: str, config: str | None, files: Mapping[str, bytes | Path]) -> str:
        """Adds a model and loads it. Raises: InferenceServerException with Triton's reason."""
        unique = self.add(name, config, files)
        self.client.load_model(unique, client_timeout=60)
        return unique

    def refusal(self, name: str, config: str | None, files: Mapping[str, bytes | Path]) -> str:
        """Adds a model that must not load; returns the reason, with the model's name put back to `name`."""
        unique = self.add(name, config, files)
        try:
            self.client.load_model(unique, client_timeout=60)
        except triton_grpc.InferenceServerException as error:
            return str(error.message()).replace(unique, name)
        raise AssertionError(f"model {unique} should not have loaded")

    def infer(
        self, model: str, inputs: Mapping[str, Array], outputs: Sequence[str] = (), version: str = ""
    ) -> dict[str, Array]:
        """One request; the answer's tensors by name."""
        result = self.client.infer(
            model,
            make_inputs(inputs),
            outputs=[triton_grpc.InferRequestedOutput(name) for name in outputs] or None,
            model_version=version,
            client_timeout=60,
        )
        return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}

    def statistics(self, model: str, version: str = "") -> Any:
        """Triton's statistics of one version of the model."""
        answer = self.client.get_inference_statistics(model, version)
        return answer.model_stats[0]

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")


def make_inputs(arrays: Mapping[str, Array]) -> list[triton_grpc.InferInput]:
    """Inputs of a request. Arrays of dtype object hold bytes."""
    inputs = []
    for name, array in arrays.items():
        item = triton_grpc.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        item.set_data_from_numpy(np.ascontiguousarray(array))
        inputs.append(item)
    return inputs
