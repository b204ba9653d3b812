"""What a master asks of Ray. The seam of its tests: `RayLauncher` in `ray_launcher.py` is the real one."""

from __future__ import annotations

from typing import Protocol

from serving.master.model import ActorRow, Report
from serving.master.names import ReplicaName
from serving.master.replica_config import Launch


class Launcher(Protocol):
    """Every method raises `Unavailable` when Ray, or the actor's process, does not answer. All may be repeated."""

    async def actors(self, *, dead: bool) -> tuple[ActorRow, ...]:
        """This application's replicas of any generation in Ray's table; with `dead`, those too that Ray remembers."""

    async def create(self, launch: Launch) -> None:
        """Asks for a replica; finds it when it is there already. Returns before Ray has placed it."""

    async def report(self, name: ReplicaName) -> Report:
        """What the replica's process says of itself now."""

    async def update(self, name: ReplicaName, update_json: str) -> None:
        """Has it load other models (`ReplicaUpdate`) and serve them. Returns when it has taken the order.

        Raises `Unavailable` when it does not take it.
        """

    async def drain(self, name: ReplicaName, limit_s: float) -> None:
        """Has it leave discovery and finish what runs. Returns when it has begun."""

    async def kill(self, name: ReplicaName, *, restart: bool) -> None:
        """Ends its process at once. With `restart` Ray starts it again; without, its name is free. Gone is no error."""

    async def remember(self, state: bytes) -> None:
        """Keeps the master's own state over its restarts, for as long as the cluster lives."""

    async def recall(self) -> bytes | None:
        """What `remember` kept last; None for nothing."""

    async def forget(self) -> None:
        """Removes what `remember` kept."""
