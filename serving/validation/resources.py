"""What is wrong with amounts of resources. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from serving._proto import records_pb2 as pb
from serving.problems import LABEL_KEY, Problem, check_amount, check_count, check_whole, is_clean, shown

MAX_CPUS: Final = 100_000.0
MAX_GPUS: Final = 10_000.0
MAX_MEMORY_BYTES: Final = 1 << 50
_RESERVED_RESOURCES: Final = {
    "cpu": "cpus",
    "gpu": "gpus",
    "memory": "memory",
    "object_store_memory": "",
}


def check_resources(path: str, resources: pb.Resources) -> Iterator[Problem]:
    yield from check_amount(f"{path}.cpus", resources.cpus, MAX_CPUS, "cores")
    yield from check_amount(f"{path}.gpus", resources.gpus, MAX_GPUS, "devices")
    if math.isfinite(resources.gpus) and resources.gpus > 1 and resources.gpus != int(resources.gpus):
        yield Problem(f"{path}.gpus", f"{resources.gpus:g} must be a whole number when it is more than 1")
    if resources.accelerator_type and not LABEL_KEY.fullmatch(resources.accelerator_type):
        yield Problem(f"{path}.accelerator_type", f"{shown(resources.accelerator_type)} is not a name such as `H200`")
    yield from check_whole(f"{path}.memory", resources.memory_bytes, 0, MAX_MEMORY_BYTES, " bytes")
    yield from check_count(f"{path}.custom", len(resources.custom))
    for name in sorted(resources.custom):
        own = _RESERVED_RESOURCES.get(name.lower())
        if own is not None:
            yield Problem(
                f"{path}.custom", f"`{name}` is not a custom resource", closest=f"{path}.{own}" if own else ""
            )
        elif not name or not is_clean(name) or len(name) > 255:
            yield Problem(f"{path}.custom", f"{shown(name)} is not a name of a resource")
        else:
            yield from check_amount(f"{path}.custom.{name}", resources.custom[name], MAX_CPUS, "units")
