"""The metadata of a request: the caller's, checked, with the trace of its context."""

from __future__ import annotations

import re
from typing import Final

from serving.discovery.client_request import Metadata
from serving.discovery.client_trace import HEADER, child_of, current_traceparent
from serving.errors import InvalidArgument

DEPLOYMENT: Final = "mesh-deployment"  # as in cpp_ext/proxy/request_head.h
RETRY: Final = "mesh-retry"
NEVER: Final = "never"

_NAME: Final = re.compile(r"[0-9a-z_.-]+")
_VALUE: Final = re.compile(r"[\x20-\x7e]*")


def prepared(metadata: Metadata) -> Metadata:
    """With a `traceparent`, unless the caller gave one. Raises `InvalidArgument` for what gRPC cannot carry."""
    traced = False
    for name, value in metadata:
        _check(name, value)
        traced = traced or name == HEADER
    return metadata if traced else (*metadata, (HEADER, child_of(current_traceparent.get())))


def for_proxies(metadata: Metadata, *, deployment: str, retry_safe: bool) -> Metadata:
    """With what a proxy must know to choose among replicas as this client would."""
    added: list[tuple[str, str]] = []
    if deployment:
        added.append((DEPLOYMENT, deployment))
    if not retry_safe:
        added.append((RETRY, NEVER))
    return (*metadata, *added)


def _check(name: object, value: object) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name.startswith("grpc-"):
        raise InvalidArgument(f"metadata {name!r} is not a name of lower-case letters, digits and `_ . -`")
    if name.endswith("-bin"):
        if not isinstance(value, bytes):
            raise InvalidArgument(f"metadata {name} expects bytes, as its name ends with -bin")
    elif not isinstance(value, str) or not _VALUE.fullmatch(value):
        raise InvalidArgument(f"metadata {name} expects a text of printable ASCII; other values need a name in -bin")
