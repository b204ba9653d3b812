"""The two servers of a comparison: the ingress and the `tritonserver` binary, with the same models and options."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.ingress.kserve_servers import Ingress, Oracle, compose_backends, ingress_binary


class Pair:
    """The two servers; `traces` are the folders of their traces.

    `tritonserver` 2.51 ends now and then where a stream is cancelled or closed by an error; races of its gRPC handler
    are known (triton-inference-server/server, issue 8034). Ours must never end.
    """

    def __init__(
        self, start_ours: Callable[[], Ingress], start_theirs: Callable[[], Oracle], traces: dict[str, Path]
    ) -> None:
        self._starters = start_ours, start_theirs
        self.traces = traces
        self.ours: Ingress
        self.theirs: Oracle
        self._start()

    def _start(self) -> None:
        with ThreadPoolExecutor(2) as pool:  # each takes seconds to load its models
            ours, theirs = (pool.submit(starter) for starter in self._starters)
        for this, other in ((ours, theirs), (theirs, ours)):
            if this.exception() is not None and other.exception() is None:
                other.result().stop()
        self.ours, self.theirs = ours.result(), theirs.result()
        assert self.ours.failed == {}

    def restart_after_a_crash(self) -> bool:
        """Starts both anew if theirs has ended, so that what they remember and count is equal; whether it had."""
        self.must_live()
        if self.theirs.alive():
            return False
        warnings.warn(f"tritonserver ended, and is started again:\n{self.theirs.log.read_text()[-2000:]}", stacklevel=2)
        self.stop()
        self._start()
        return True

    def must_live(self) -> None:
        """Ends the whole run when our server is gone: everything after it would fail for that alone."""
        if not self.ours.alive():
            pytest.exit(f"ours ended during this test:\n{self.ours.log.read_text()[-2000:]}")

    def stop(self) -> None:
        """Ends both; ours must end cleanly."""
        self.theirs.stop()
        status = self.ours.stop()
        assert status == 0, f"exit status {status}:\n{self.ours.log.read_text()[-4000:]}"


@contextmanager
def start_pair(
    folder: Path,
    repository: Path,
    ours: Sequence[str] = (),
    theirs: Sequence[str] = (),
    *,
    backends: Path | None = None,
) -> Iterator[Pair]:
    """Both with every model of `repository`, where clients may load and unload; `ours` and `theirs` are more flags.

    `backends` is the directory of other backends than identity and python.
    """
    if not ingress_binary().exists():
        pytest.fail(f"{ingress_binary()} is missing; run `make setup`, or set MESH_BUILD_DIR")
    used = backends if backends is not None else compose_backends(folder / "backends")
    traces = {name: folder / f"{name}-traces" for name in ("ours", "theirs")}
    for place in traces.values():
        place.mkdir()

    def start_ours() -> Ingress:
        flags = ["--event-loops=2", "--model-control=explicit", f"--trace-file={traces['ours']}/trace.json", *ours]
        return Ingress(repository, used, folder / "ours.log", *flags)

    def start_theirs() -> Oracle:
        flags = ["--model-control-mode=explicit", "--load-model=*", "--log-format=ISO8601", "--exit-timeout-secs=2"]
        flags += [f"--trace-config=triton,file={traces['theirs']}/trace.json", *theirs]
        return Oracle(repository, used, folder / "theirs.log", *flags)

    pair = Pair(start_ours, start_theirs, traces)
    try:
        yield pair
    finally:
        pair.stop()
