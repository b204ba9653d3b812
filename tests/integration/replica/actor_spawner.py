"""A detached async Python actor that creates C++ replicas, as the application master does. Ray's workers import it."""

from __future__ import annotations

import os

import ray


class Spawner:
    """Creates and asks C++ deployment actors."""

    async def create(self, name: str, config_json: str) -> str:
        """Starts a replica under `name`; answers its first status."""
        actor_class = ray.cross_language.cpp_actor_class("CreateDeploymentActor", "DeploymentActor")
        options = {"name": name, "lifetime": "detached", "max_restarts": -1, "num_cpus": 0}
        handle = actor_class.options(**options).remote(config_json)
        return str(await handle.Status.remote())

    async def status(self, name: str) -> str:
        """The report of the replica of that name."""
        return str(await ray.get_actor(name).Status.remote())

    async def pid(self) -> int:
        """Of this actor's process."""
        return os.getpid()
