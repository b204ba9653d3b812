"""NVIDIA Triton embedded in this process (C++, `cpp_ext/python`)."""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy.typing as npt

class TritonServer:
    """A Triton server in this process.

    Thread-safe; gives up the GIL while it waits. Errors are those of `serving.errors`. The constructor returns when
    every wanted model is loaded or has failed to (`load_errors`); it raises when the library, a folder or an option
    does not work, and for a repository without models. Triton's log, one per process, goes to `log_file` or to
    standard error.
    """

    def __init__(
        self,
        *,
        repository: str,
        library: str = "",
        backend_directory: str = "",
        models: Sequence[str] = (),
        backend_settings: Mapping[str, Mapping[str, str]] = {},
        log_verbosity: int = 0,
        log_file: str = "",
        exit_timeout_s: int = 30,
        model_load_threads: int = 4,
    ) -> None:
        """Start it.

        `repository`: a folder of model folders. `library`: `libtritonserver*.so` or its folder; empty: the installation
        under /opt/tritonserver. `backend_directory`: a folder of backend folders; empty: beside the library. `models`:
        those to load, empty: all. `backend_settings`: backend → name → value. `exit_timeout_s`: how long `stop` waits
        for running requests.
        """

    def infer(
        self,
        model: str,
        inputs: Mapping[str, npt.ArrayLike],
        version: str = "",
        outputs: Sequence[str] | None = None,
        request_id: str = "",
        timeout_s: float | None = None,
        parameters: Mapping[str, bool | int | float | str] | None = None,
    ) -> dict[str, npt.NDArray[Any]]:
        """Run one request and return its outputs by name.

        C-contiguous arrays of fixed-size dtypes are neither copied on the way in nor on the way out; do not change an
        input before the call returns, nor, after a timeout, before `stop`. BYTES: object arrays of bytes (or str, as
        UTF-8) in, object arrays of bytes out. FP16 is float16. numpy has no bfloat16: BF16 is its bits as uint16.
        `outputs`: those wanted; None: all. `timeout_s`: then the request is cancelled and DeadlineExceeded raised.
        `parameters`: as in the protocol, `priority` and `sequence_id` among them.

        Raises InvalidArgument, NotFound, Unavailable and so on, with Triton's message where Triton refused.
        """

    def index(self) -> list[dict[str, Any]]:
        """Every model of the repository: `name`, and `version`, `state`, `reason` where known."""

    def metadata(self) -> dict[str, Any]:
        """`name`, `version` and `extensions` of the server."""

    def model_metadata(self, model: str, version: str = "") -> dict[str, Any]:
        """`name`, `versions`, `platform`, `inputs` and `outputs`. Raises NotFound."""

    def model_config(self, model: str, version: str = "") -> dict[str, Any]:
        """The model's whole configuration, completed by its backend. Raises NotFound."""

    def statistics(self, model: str = "", version: str = "") -> list[dict[str, Any]]:
        """Counts and times per model and version; of all models when `model` is empty."""

    def is_ready(self, model: str = "", version: str = "") -> bool:
        """Whether the server, or one model, can answer. False after `stop`."""

    def metrics(self) -> str:
        """Triton's metrics in Prometheus' text format."""

    @property
    def load_errors(self) -> dict[str, str]:
        """Why models could not be loaded, by name; empty when all could."""

    def stop(self) -> None:
        """Refuse new requests, wait for running ones, unload. Repeatable. Raises Unavailable when some did not end."""

    def __enter__(self) -> TritonServer: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
