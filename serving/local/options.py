"""What `mesh up` was asked for."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from serving.errors import InvalidArgument
from serving.local.gpus import count_gpus

CLUSTER_NAMES: Final = ("east", "west", "north", "south")
MAX_CLUSTERS: Final = 16


@dataclass(frozen=True, slots=True)
class UpOptions:
    """A mesh on this machine. With `config_file` only keepers and agents are started, beside what it names.

    `cpus_per_cluster` is what Ray is told to hand out, not a limit of the machine; 0: the number of its cores. So is
    `gpus_per_cluster`; None: as many as the driver lists. `gateway_port` and `gateway_grpc_port` 0: any free one.
    `require_keys`: whoever asks the HTTP gateway, or an application's HTTP proxy, needs an API key.
    """

    mesh_dir: Path
    clusters: int = 1
    keepers: int = 1
    cpus_per_cluster: int = 0
    gpus_per_cluster: int | None = None
    config_file: Path | None = None
    gateway_port: int = 0
    require_keys: bool = False
    gateway_grpc_port: int = 0
    start_timeout_s: float = 180.0

    def validate(self) -> None:
        """Raises `InvalidArgument` that names the option."""
        if not 1 <= self.clusters <= MAX_CLUSTERS:
            raise InvalidArgument(f"--clusters {self.clusters}: between 1 and {MAX_CLUSTERS} fit on one machine")
        if not 1 <= self.keepers <= 5:
            raise InvalidArgument(f"--keepers {self.keepers}: between 1 and 5")
        if self.cpus_per_cluster < 0:
            raise InvalidArgument(f"--cpus {self.cpus_per_cluster}: must not be negative")
        for name, port in (("gateway-port", self.gateway_port), ("gateway-grpc-port", self.gateway_grpc_port)):
            if not 0 <= port < 65_536:
                raise InvalidArgument(f"--{name} {port}: between 1 and 65535, or 0 for any free one")
        if self.gateway_port and self.gateway_port == self.gateway_grpc_port:
            raise InvalidArgument(f"--gateway-grpc-port {self.gateway_port}: is --gateway-port, too; they need two")
        if self.gpus_per_cluster is not None and self.gpus_per_cluster < 0:
            raise InvalidArgument(f"--gpus {self.gpus_per_cluster}: must not be negative")

    def cpus(self) -> int:
        return self.cpus_per_cluster or os.cpu_count() or 1

    def gpus(self) -> int:
        """Asks the driver where nothing was said: blocking, for up to seconds."""
        return count_gpus() if self.gpus_per_cluster is None else self.gpus_per_cluster


def cluster_names(count: int) -> tuple[str, ...]:
    """`east`, `west`, `north`, `south`, then `cluster-5` and so on."""
    return tuple(CLUSTER_NAMES[i] if i < len(CLUSTER_NAMES) else f"cluster-{i + 1}" for i in range(count))
