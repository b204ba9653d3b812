"""What makes the `redis` part of a broker's spec valid. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Final

from serving._proto import records_pb2 as pb
from serving.broker.redis_log.settings import (
    MAX_BODY_BYTES,
    MAX_REPLICAS,
    MAX_TAKEOVER_S,
    MIN_TAKEOVER_S,
    parse_address,
)
from serving.errors import InvalidArgument
from serving.problems import Problem, check_whole, shown

_FILES: Final = ("password_file", "ca_file", "cert_file", "key_file")


def redis_problems(at: str, broker: pb.BrokerDeployment) -> Iterator[Problem]:
    """`at` is the field's own path."""
    redis = broker.redis
    try:
        tls = parse_address(redis.url).tls
    except InvalidArgument as error:  # the url is not shown: it may have a password
        yield Problem(f"{at}.url", error.message)
        tls = True
    for name in _FILES:
        path = getattr(redis, name)
        if path and (not PurePosixPath(path).is_absolute() or "\0" in path):
            yield Problem(f"{at}.{name}", f"{shown(path)} is not the absolute path of a file")
        if path and not tls and name != "password_file":
            yield Problem(f"{at}.{name}", "needs a `rediss://` url")
    if bool(redis.cert_file) != bool(redis.key_file):
        yield Problem(f"{at}.cert_file", "belongs together with `key_file`")
    yield from check_whole(f"{at}.replicas", redis.replicas, 0, MAX_REPLICAS)
    if redis.takeover_s and not MIN_TAKEOVER_S <= redis.takeover_s <= MAX_TAKEOVER_S:
        text = f"{redis.takeover_s:g} s is out of range: {MIN_TAKEOVER_S:g} to {MAX_TAKEOVER_S:g} s; 0 is 10 s"
        yield Problem(f"{at}.takeover", text)
    for name in ("max_request_bytes", "max_result_bytes"):
        if getattr(broker, name) > MAX_BODY_BYTES:
            yield Problem(f"{at[: -len('.redis')]}.{name}", "can be 256 MiB at most with journals in Redis")
