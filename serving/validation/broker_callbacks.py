"""What makes the `callbacks` of a broker's spec valid. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Final

from serving._proto import records_pb2 as pb
from serving.broker.callbacks.policy import is_host_pattern
from serving.problems import MAX_TIMEOUT_S, Problem, check_count, check_duplicates, check_number, check_whole, shown

MAX_AGE_S: Final = 30 * MAX_TIMEOUT_S
MAX_TRY_S: Final = 300.0
MAX_TRIES: Final = 1000
MAX_CALLS: Final = 1024
MAX_INLINE_BYTES: Final = 1 << 20
MAX_DUE: Final = 1_000_000


def callback_problems(at: str, callbacks: pb.BrokerCallbacks) -> Iterator[Problem]:
    """`at` is the field's own path."""
    for field, found in (("hosts", callbacks.hosts), ("networks", callbacks.networks)):
        yield from check_count(f"{at}.{field}", len(found))
        yield from check_duplicates(f"{at}.{field}", list(found))
    for index, host in enumerate(callbacks.hosts):
        if not is_host_pattern(host):
            yield Problem(f"{at}.hosts[{index}]", f"{shown(host)} is neither a host nor `*.` and a domain")
    for index, network in enumerate(callbacks.networks):
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            yield Problem(f"{at}.networks[{index}]", f"is no network such as 10.0.0.0/8: {error}")
    if callbacks.secrets and (not PurePosixPath(callbacks.secrets).is_absolute() or "\0" in callbacks.secrets):
        yield Problem(f"{at}.secrets", f"{shown(callbacks.secrets)} is not the absolute path of a folder")
    for name, high in (
        ("timeout", MAX_TRY_S), ("max_age", MAX_AGE_S), ("first_delay", MAX_TIMEOUT_S), ("max_delay", MAX_TIMEOUT_S),
    ):  # fmt: skip
        yield from check_number(f"{at}.{name}", getattr(callbacks, f"{name}_s"), high, "seconds; 0 is the default")
    for name, most in (
        ("max_attempts", MAX_TRIES), ("concurrency", MAX_CALLS), ("per_host", MAX_CALLS),
        ("max_inline_bytes", MAX_INLINE_BYTES), ("max_due", MAX_DUE), ("per_tenant", MAX_CALLS),
        ("max_tenant_due", MAX_DUE),
    ):  # fmt: skip
        yield from check_whole(f"{at}.{name}", getattr(callbacks, name), 0, most, "; 0 is the default")
