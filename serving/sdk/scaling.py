"""What an autoscaling policy of the user's is asked, and how it is called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class ScalingLoad:
    """The load of one deployment, for a function `def size(load: ScalingLoad) -> float`: how many replicas it wants.

    It is rounded up and kept between `least` and `most`; delays and steps of `Autoscaling` apply to it as to targets.
    The function must be pure: it is called about twice a second in a process of its own, which ends and begins with the
    application master, and has two seconds.

    `now` is in unix seconds. `size` replicas are wanted now, `ready` are. `ongoing` requests run or wait,
    `requests_per_s` are answered, `cpu_cores` used: means over `Autoscaling.window`, of all replicas together. `p99_s`
    is the 99th percentile of the time of a request in that window, in seconds (0.0: no request). `queued` requests
    wait at brokers, the oldest for `queue_age_s`. `args` are those of the spec.
    """

    now: float
    size: int
    ready: int
    least: int
    most: int
    ongoing: float = 0.0
    requests_per_s: float = 0.0
    cpu_cores: float = 0.0
    p99_s: float = 0.0
    queued: int = 0
    queue_age_s: float = 0.0
    args: Mapping[str, Any] = field(default_factory=dict)
