"""The two servers of a comparison: the ingress and the `tritonserver` binary, with the same models and options."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.ingress.kserve_servers import Ingress, Oracle, compose_backends, ingress_binary


@dataclass(frozen=True)
class Pair:
    """The two servers; `traces` are the folders of their traces."""

    ours: Ingress
    theirs: Oracle
    traces: dict[str, Path]

    def must_live(self) -> None:
        """Ends the whole run when a server is gone: everything after it would fail for that alone."""
        for name, server in (("ours", self.ours), ("theirs", self.theirs)):
            if not server.alive():
                pytest.exit(f"{name} ended during this test:\n{server.log.read_text()[-2000:]}")


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

    with ThreadPoolExecutor(2) as pool:  # each takes seconds to load its models
        started = pool.submit(start_ours), pool.submit(start_theirs)
    with started[1].result() as oracle, started[0].result() as ingress:
        assert ingress.failed == {}
        yield Pair(ingress, oracle, traces)
