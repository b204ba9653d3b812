"""Policies that users wrote, each in a process of its own, so that nothing they do can stop the master."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from serving._proto import records_pb2 as pb
from serving.deployment.artifact_cache import ArtifactCache
from serving.errors import MeshError, Unavailable
from serving.process_id import ProcessId
from serving.sdk.scaling import ScalingLoad
from serving.timeouts import cancel_and_wait, wait_for

_LOG: Final = logging.getLogger(__name__)
START_S: Final = 30.0  # for the first answer: its imports may take a while
ANSWER_S: Final = 2.0
FRESH_S: Final = 10.0  # an older answer counts as none
_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 30.0
_LONGEST_LINE: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """What a policy said at `at` (monotonic seconds): a `size`, or what was wrong."""

    at: float
    size: float = 0.0
    problem: str = ""


@dataclass(slots=True)
class _Asked:
    """One policy: the newest load that it has not been asked about, and its last answer."""

    record: pb.ScalingFunction
    load: ScalingLoad | None = None
    news: asyncio.Event = field(default_factory=asyncio.Event)
    answer: Answer | None = None
    task: asyncio.Task[None] | None = None


class CustomPolicies:
    """Those of one application. Belongs to one event loop; `close` ends the processes."""

    def __init__(self, cache_dir: str) -> None:
        self._cache_dir = cache_dir
        self._asked: dict[str, _Asked] = {}

    def ask(self, deployment: str, record: pb.ScalingFunction, load: ScalingLoad) -> Answer | None:
        """Hands `load` on and answers at once what was said last; None while nothing was, or too long ago."""
        asked = self._asked.get(deployment)
        if asked is None or asked.record != record:
            self._forget(deployment)
            asked = self._asked[deployment] = _Asked(record)
            asked.task = asyncio.create_task(self._run(deployment, asked), name=f"policy of {deployment}")
        asked.load = load
        asked.news.set()
        fresh = asked.answer is not None and time.monotonic() - asked.answer.at <= FRESH_S
        return asked.answer if fresh else None

    def keep(self, deployments: Mapping[str, object]) -> None:
        """Ends the policies of all others."""
        for name in self._asked.keys() - deployments.keys():
            self._forget(name)

    async def close(self) -> None:
        tasks = [asked.task for asked in self._asked.values() if asked.task is not None]
        self._asked.clear()
        await cancel_and_wait(*tasks)

    def _forget(self, deployment: str) -> None:
        asked = self._asked.pop(deployment, None)
        if asked is not None and asked.task is not None:
            asked.task.cancel()

    async def _run(self, deployment: str, asked: _Asked) -> None:
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                await self._serve(asked)
            except MeshError as error:
                asked.answer = Answer(time.monotonic(), problem=error.message)
                _LOG.warning("autoscaling policy failed", extra={"deployment": deployment, "error": error.message})
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _serve(self, asked: _Asked) -> None:
        """Asks one process until it fails; raises `Unavailable` that says how."""
        folder = await asyncio.to_thread(self._fetch, asked.record)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "serving.master.policy_process", folder, asked.record.entry),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_LONGEST_LINE,
        )
        try:
            limit_s = START_S
            while True:
                await asked.news.wait()
                asked.news.clear()
                asked.answer = await _one(process, asked, limit_s)
                limit_s = ANSWER_S
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.communicate()  # to its end, with its pipes

    def _fetch(self, record: pb.ScalingFunction) -> str:
        """The folder of the code; "" where the module is installed. Blocking."""
        if not record.HasField("code"):
            return ""
        user = ProcessId.of(os.getpid())
        cache = ArtifactCache(Path(self._cache_dir))
        code = record.code
        return str(cache.get(code.uri, code.digest, code.size_bytes, user=user, now=time.time()).absolute())


async def _one(process: asyncio.subprocess.Process, asked: _Asked, limit_s: float) -> Answer:
    """The answer to the newest load. Raises `Unavailable` when the process does not give one."""
    entry, load = asked.record.entry, asked.load
    if load is None or process.stdin is None or process.stdout is None:
        raise Unavailable(f"{entry} was not asked anything")
    try:
        process.stdin.write((json.dumps(asdict(load)) + "\n").encode())
        line = await wait_for(process.stdout.readline(), limit_s)
    except asyncio.TimeoutError:
        raise Unavailable(f"{entry} has not answered within {limit_s:g} s") from None
    except (OSError, ValueError) as error:
        raise Unavailable(f"{entry} does not answer: {error}") from error
    if not line:
        last = asked.answer.problem if asked.answer is not None else ""
        raise Unavailable(last or f"the process of {entry} has ended")
    return answer_of(line, time.monotonic())


def answer_of(line: bytes, at: float) -> Answer:
    """What a line says; one that is no number of replicas is a problem, not a size."""
    try:
        found = json.loads(line)
        if isinstance(found, dict) and "error" in found:
            return Answer(at, problem=str(found["error"])[:500])
        size = float(found["size"])
    except (ValueError, TypeError, KeyError):
        return Answer(at, problem=f"answered {line[:80]!r}, which is no number of replicas")
    if not (math.isfinite(size) and size >= 0):
        return Answer(at, problem=f"answered {size}, which is no number of replicas")
    return Answer(at, size)
