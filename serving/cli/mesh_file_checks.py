"""The checks of `mesh doctor --config mesh.yaml`: what the file names, as it is seen from this machine."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from serving.cli.check import FAILED, OK, Check
from serving.errors import MeshError, SpecError

if TYPE_CHECKING:
    from serving.config import EtcdConfig, TlsConfig
    from serving.sdk.connection import ClusterConfig, ListenConfig

CONNECT_S: Final = 3.0


def mesh_file(path: Path) -> Iterator[Check]:
    """The file, its etcd endpoints, its Ray clusters with their tokens, and where keepers would listen."""
    from serving.sdk.connection import load_mesh_config

    try:
        config = load_mesh_config(path)
    except SpecError as error:
        yield Check("mesh.yaml", FAILED, error.message, f"correct {path}")
        return
    yield Check("mesh.yaml", OK, str(path))
    for endpoint in config.etcd.endpoints:
        yield _endpoint(replace(config.etcd, endpoints=(endpoint,), max_attempts=1))
    for cluster in config.clusters:
        yield _ray(cluster)
        if cluster.token_file:
            yield _token(cluster)
    yield _listen(config.listen)
    if config.tls is not None:
        yield _certificates("tls", config.tls)


def _endpoint(config: EtcdConfig) -> Check:
    """One read below the mesh's prefix: the address, the certificates, the user and what the user may read."""
    name = f"etcd {config.endpoints[0]}"
    try:
        asyncio.run(_read(config))
    except (MeshError, OSError) as error:
        text = error.message if isinstance(error, MeshError) else str(error)
        return Check(name, FAILED, text, "correct the section `etcd` of the file, or look at that member")
    return Check(name, OK, "answers")


async def _read(config: EtcdConfig) -> None:
    from serving.store import keys
    from serving.store.client import EtcdClient

    client = EtcdClient(config)
    try:
        await client.get(keys.cluster("doctor"))
    finally:
        await client.close()


def _ray(cluster: ClusterConfig) -> Check:
    host, _, port = cluster.ray_address.rpartition(":")
    name = f"Ray cluster {cluster.name}"
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S):
            return Check(name, OK, f"{cluster.ray_address} accepts connections")
    except OSError as error:
        advice = "correct `ray_address`, start the cluster, or let this machine reach its GCS"
        return Check(name, FAILED, f"{cluster.ray_address}: {error}", advice)


def _token(cluster: ClusterConfig) -> Check:
    name = f"token of {cluster.name}"
    try:
        text = Path(cluster.token_file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        return Check(name, FAILED, f"{cluster.token_file} cannot be read: {error}", "correct `token_file`")
    if not text:
        return Check(name, FAILED, f"{cluster.token_file} is empty", "put Ray's authentication token into it")
    return Check(name, OK, cluster.token_file)


def _listen(listen: ListenConfig) -> Check:
    """Keepers take a free port of this host, so it must be an address of this machine."""
    try:
        found = socket.getaddrinfo(listen.host, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as one:
            one.bind(address)
            one.listen(1)
    except OSError as error:
        advice = (
            "`listen.host` must be an address of the machine that runs `mesh up -f`; `advertise_host` is for clients"
        )
        return Check("listen", FAILED, f"keepers cannot listen on {listen.host}: {error}", advice)
    if listen.tls is not None:
        return _certificates("listen.tls", listen.tls)
    return Check("listen", OK, f"keepers can listen on {listen.host}")


def _certificates(name: str, tls: TlsConfig) -> Check:
    try:
        context = ssl.create_default_context(cafile=tls.ca_file or None)
        if tls.cert_file:
            context.load_cert_chain(tls.cert_file, tls.key_file or None)
    except OSError as error:  # ssl.SSLError is one
        named = ", ".join(file for file in (tls.ca_file, tls.cert_file, tls.key_file) if file)
        return Check(name, FAILED, f"{named}: {error}", f"correct the files of `{name}`")
    return Check(name, OK, "certificates and keys are readable and belong together")
