"""A driver of its own process: `actor_driver ADDRESS LIBRARY`, commands as JSON lines on standard input.

["spawn", name, config]  a detached Python actor creates the replica; its status
["status", name]         asked through the Python actor
["direct", name, method, *arguments]  asked by this driver
["kill_spawner"]         SIGKILL, then the pid of the one that Ray restarted
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import Any

import ray
from ray.job_config import JobConfig

from tests.integration.replica.actor_spawner import Spawner

CALL_TIMEOUT_S = 120.0


def _spawner() -> Any:
    actor_class = ray.remote(num_cpus=0, max_restarts=-1)(Spawner)
    return actor_class.options(name="spawner", lifetime="detached", get_if_exists=True).remote()


def _patient(call: Any) -> Any:
    """The answer, asking again while Ray restarts the actor."""
    deadline = time.monotonic() + CALL_TIMEOUT_S
    while True:
        try:
            return ray.get(call(), timeout=CALL_TIMEOUT_S)
        except (ray.exceptions.RayActorError, ray.exceptions.RayTaskError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _do(verb: str, arguments: list[Any]) -> Any:
    if verb == "spawn":
        return ray.get(_spawner().create.remote(*arguments), timeout=CALL_TIMEOUT_S)
    if verb == "status":
        return _patient(lambda: _spawner().status.remote(arguments[0]))
    if verb == "direct":
        name, method, *rest = arguments
        return _patient(lambda: getattr(ray.get_actor(name), method).remote(*rest))
    if verb == "kill_spawner":
        before = _patient(lambda: _spawner().pid.remote())
        os.kill(before, signal.SIGKILL)
        return _patient(lambda: _spawner().pid.remote())
    raise ValueError(f"unknown command {verb}")


def main(address: str, library: str) -> None:
    ray.init(address=address, namespace="mesh", job_config=JobConfig(code_search_path=[library]), log_to_driver=False)
    for line in sys.stdin:
        verb, *arguments = json.loads(line)
        print("answer " + json.dumps(_do(verb, arguments)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
