"""TLS files → credentials of a gRPC channel."""

from __future__ import annotations

from pathlib import Path

import grpc

from serving.config import TlsConfig
from serving.errors import InvalidArgument


def channel_credentials(tls: TlsConfig) -> grpc.ChannelCredentials:
    """Reads the files (blocking); without a `ca_file` the system's authorities count. Raises `InvalidArgument`."""
    return grpc.ssl_channel_credentials(_read(tls.ca_file), _read(tls.key_file), _read(tls.cert_file))


def _read(path: str) -> bytes | None:
    if not path:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InvalidArgument(f"the TLS file {path} cannot be read: {error.strerror or error}") from error
