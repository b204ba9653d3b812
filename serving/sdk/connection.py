"""How to reach a mesh: from a local mesh's folder, from `mesh.yaml`, or from the environment.

`mesh.yaml` describes a mesh on existing parts; `mesh up -f mesh.yaml` starts it and the SDK connects to it::

    name: prod                                  # optional: the mesh's own, for meshes that share a Ray cluster
    etcd:
      endpoints: [etcd-1:2379, etcd-2:2379]     # host:port
      tls: {ca_file: ca.pem, cert_file: client.pem, key_file: client.key}      # optional
      user: mesh                                # optional
      password_file: etcd.password              # optional; never the password itself
      request_timeout: 2s                       # optional
    artifacts: s3://bucket/mesh                 # where packed model folders are kept: an fsspec url or a folder
    clusters:                                   # the Ray clusters
      - name: east
        ray_address: ray-east:6379              # host:port of its GCS
        token_file: east.token                  # optional: Ray's authentication token
        labels: {region: east}                  # optional
        listen:                                 # optional: where its replicas listen; on loopback where it is absent
          host: 0.0.0.0                         # clients are told the address of each replica's Ray node
          tls: {cert_file: replica.pem, key_file: replica.key}
    keepers: 2                                  # optional, how many `mesh up` starts
    listen:                                     # optional: where they listen
      host: 0.0.0.0
      advertise_host: 10.0.0.5                  # what clients are told; by default the host
      tls: {ca_file: ca.pem, cert_file: keeper.pem, key_file: keeper.key}
    tls: {ca_file: ca.pem}                      # optional: what clients use towards keepers and endpoints

Paths are relative to the file. Wrong files are answered with `SpecError` that names file, line and field.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from serving.config import EtcdConfig, TlsConfig, default_mesh_dir, mesh_config_file
from serving.errors import FailedPrecondition, SpecError
from serving.problems import Problem
from serving.sdk._artifacts import local_path
from serving.sdk._table import SECONDS, Field, ListOf, MapOf, PathText, Reading, Record, Text, Whole, Word
from serving.sdk._yaml import Document, parse_document, read_text
from serving.types import DEFAULT_MESH, NAME_RULE, is_name

MESH_JSON: Final = "mesh.json"
MESH_JSON_VERSION: Final = 1
MAX_KEEPERS: Final = 16
_ANY_HOST: Final = ("0.0.0.0", "::", "[::]")


@dataclass(frozen=True, slots=True)
class ListenConfig:
    """Where processes listen; with `tls` only by TLS.

    `advertise_host` is what clients are told: "" for `host`, or the replica's Ray node where that is any address.
    """

    host: str = "127.0.0.1"
    advertise_host: str = ""
    tls: TlsConfig | None = None


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """A Ray cluster: `ray_address` is the host:port of its GCS, `token_file` holds Ray's authentication token.

    `listen` is for its replicas.
    """

    name: str
    ray_address: str
    token_file: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    listen: ListenConfig = field(default_factory=ListenConfig)


@dataclass(frozen=True, slots=True)
class MeshConfig:
    """Everything that `mesh.yaml` says. Paths are absolute; `artifacts` is a url.

    `name` keeps apart meshes that share a Ray cluster.
    """

    etcd: EtcdConfig
    artifacts: str
    clusters: tuple[ClusterConfig, ...] = ()
    keepers: int = 1
    listen: ListenConfig = field(default_factory=ListenConfig)
    tls: TlsConfig | None = None
    name: str = DEFAULT_MESH


@dataclass(frozen=True, slots=True)
class Connection:
    """What a client needs. `artifacts` is the url under which packed folders are kept, "" when nothing is deployed.

    `tls` is used towards keepers, and towards the endpoints that say they expect it; absent is plaintext. `gateway` and
    `gateway_grpc` are the host:port of a local mesh's gateways; "" where there is none, or nobody has said.
    """

    etcd: EtcdConfig
    artifacts: str = ""
    tls: TlsConfig | None = None
    clusters: tuple[ClusterConfig, ...] = ()
    gateway: str = ""
    gateway_grpc: str = ""

    @classmethod
    def local(cls, mesh_dir: str | os.PathLike[str] | None = None) -> Connection:
        """The local mesh of a folder (`mesh up --dir`), by default `$MESH_DIR` or `~/.mesh`.

        Raises `FailedPrecondition` when no mesh was started there and `SpecError` for a damaged `mesh.json`.
        """
        folder = local_path(mesh_dir) if mesh_dir is not None else default_mesh_dir()
        return _from_mesh_json(folder / MESH_JSON)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Connection:
        """The mesh that a `mesh.yaml` describes (or a `mesh.json` of a local mesh). Raises `SpecError`."""
        if Path(path).name == MESH_JSON:
            return _from_mesh_json(local_path(path))
        config = load_mesh_config(path)
        return cls(config.etcd, config.artifacts, config.tls, config.clusters)

    @classmethod
    def from_env(cls) -> Connection:
        """`$MESH_CONFIG` names a `mesh.yaml`; without it the local mesh of `$MESH_DIR` or `~/.mesh` is meant."""
        path = mesh_config_file()
        return cls.from_file(path) if path is not None else cls.local()


def load_mesh_config(path: str | os.PathLike[str]) -> MeshConfig:
    """Reads a `mesh.yaml`. Raises `SpecError` with file, line and field for everything wrong in it."""
    document = parse_document(read_text(Path(path)), str(path))
    reading = Reading(raw=document.raw)
    values = TABLE.read(document.value, reading.root())
    if not reading.problems:
        reading.problems.extend(_problems(values))
    if reading.problems:
        raise document.error(reading.problems)
    return _config(values, local_path(path).parent)


# ------------------------------------------------------------------------------------------------ the one description

_TLS: Final = Record(
    "tls",
    (
        Field("ca_file", PathText(), "PEM bundle that the peer is checked against.", default=""),
        Field("cert_file", PathText(), "Our own certificate (PEM).", default=""),
        Field("key_file", PathText(), "The key of our own certificate (PEM).", default=""),
    ),
)
_ETCD: Final = Record(
    "etcd",
    (
        Field("endpoints", ListOf(Text()), "host:port of each member.", required=True),
        Field("tls", _TLS, "Absent: plaintext."),
        Field("user", Text(), "User name, where etcd has authentication on.", default=""),
        Field("password_file", PathText(), "File that holds the password.", default=""),
        Field("request_timeout", SECONDS, "Limit of one request: 2s.", default=2.0),
    ),
)
_LISTEN: Final = Record(
    "listen",
    (
        Field("host", Text(), "Address that is listened on.", default="127.0.0.1"),
        Field("advertise_host", Text(), "What clients are told; by default host, or the Ray node.", default=""),
        Field("tls", _TLS, "Our own certificate; with ca_file clients must present one too."),
    ),
)
_CLUSTER: Final = Record(
    "a cluster",
    (
        Field("name", Text(), "Unique in the mesh.", required=True),
        Field("ray_address", Text(), "host:port of the cluster's GCS.", required=True),
        Field("token_file", PathText(), "File that holds Ray's authentication token.", default=""),
        Field("labels", MapOf(Word()), "Labels that placements can ask for.", default={}),
        Field("listen", _LISTEN, "Where its replicas listen.", default=_LISTEN.defaults()),
    ),
)
TABLE: Final = Record(
    "mesh.yaml",
    (
        Field(
            "name",
            Text(),
            "The mesh's name: meshes that share a Ray cluster need different ones.",
            default=DEFAULT_MESH,
        ),
        Field("etcd", _ETCD, "The store in which the mesh meets.", required=True),
        Field("artifacts", PathText(), "fsspec url or folder for packed model folders.", required=True),
        Field("clusters", ListOf(_CLUSTER), "The Ray clusters.", required=True),
        Field("keepers", Whole(), "How many keepers are started.", default=1),
        Field("listen", _LISTEN, "Where keepers listen.", default=_LISTEN.defaults()),
        Field("tls", _TLS, "What clients use towards keepers and endpoints; absent: plaintext."),
    ),
)


def _problems(values: Mapping[str, Any]) -> Iterator[Problem]:
    if not is_name(values["name"]):
        yield Problem("name", f"`{values['name']}` is not a valid name: {NAME_RULE}")
    if not values["etcd"]["endpoints"]:
        yield Problem("etcd.endpoints", "names no endpoint")
    for index, endpoint in enumerate(values["etcd"]["endpoints"]):
        yield from _address(f"etcd.endpoints[{index}]", endpoint)
    if not 0 < values["etcd"]["request_timeout"] <= 60:
        yield Problem("etcd.request_timeout", "is out of range: more than 0 up to 60 seconds")
    if bool(values["etcd"]["user"]) != bool(values["etcd"]["password_file"]):
        yield Problem("etcd.user", "user and password_file go together")
    for path, tls in (("etcd.tls", values["etcd"]["tls"]), ("tls", values["tls"])):
        if tls and bool(tls["cert_file"]) != bool(tls["key_file"]):
            yield Problem(path, "cert_file and key_file go together")
    yield from _listen_problems("listen", values["listen"])
    yield from _reach_problems("listen", values["listen"])
    if not values["artifacts"]:
        yield Problem("artifacts", "is empty")
    if not 1 <= values["keepers"] <= MAX_KEEPERS:
        yield Problem("keepers", f"{values['keepers']} is out of range: 1 to {MAX_KEEPERS}")
    yield from _cluster_problems(values["clusters"])


def _cluster_problems(clusters: tuple[Mapping[str, Any], ...]) -> Iterator[Problem]:
    if not clusters:
        yield Problem("clusters", "names no Ray cluster")
    names = [cluster["name"] for cluster in clusters]
    for index, cluster in enumerate(clusters):
        path = f"clusters[{index}]"
        if not is_name(cluster["name"]):
            yield Problem(f"{path}.name", f"`{cluster['name']}` is not a valid name: {NAME_RULE}")
        if cluster["name"] in names[:index]:
            yield Problem(f"{path}.name", f"`{cluster['name']}` stands there twice")
        yield from _address(f"{path}.ray_address", cluster["ray_address"])
        yield from _listen_problems(f"{path}.listen", cluster["listen"])


def _listen_problems(path: str, listen: Mapping[str, Any]) -> Iterator[Problem]:
    tls = listen["tls"]
    if tls and not (tls["cert_file"] and tls["key_file"]):
        yield Problem(f"{path}.tls", "a server needs cert_file and key_file")
    if listen["advertise_host"] in _ANY_HOST:
        yield Problem(f"{path}.advertise_host", f"clients cannot reach `{listen['advertise_host']}`")


def _reach_problems(path: str, listen: Mapping[str, Any]) -> Iterator[Problem]:
    """Of keepers. Replicas that listen everywhere are known by the addresses of their Ray nodes."""
    if not listen["advertise_host"] and listen["host"] in _ANY_HOST:
        yield Problem(f"{path}.host", f"clients cannot reach `{listen['host']}`; advertise_host must say what they can")


def _address(path: str, address: str) -> Iterator[Problem]:
    host, _, port = address.rpartition(":")
    if "://" in address or "/" in address:
        bare = address.split("://", 1)[-1].split("/", 1)[0]
        yield Problem(path, f"`{address}` is a url, expected is host:port", closest=bare if ":" in bare else "")
    elif not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        yield Problem(path, f"`{address}` is not host:port")


def _config(values: Mapping[str, Any], folder: Path) -> MeshConfig:
    etcd = values["etcd"]
    return MeshConfig(
        etcd=EtcdConfig(
            endpoints=etcd["endpoints"],
            tls=_tls(etcd["tls"], folder),
            user=etcd["user"],
            password_file=_file(etcd["password_file"], folder),
            request_timeout_s=etcd["request_timeout"],
        ),
        artifacts=_artifacts(values["artifacts"], folder),
        clusters=tuple(
            ClusterConfig(
                entry["name"],
                entry["ray_address"],
                _file(entry["token_file"], folder),
                entry["labels"],
                _listen(entry["listen"], folder),
            )
            for entry in values["clusters"]
        ),
        keepers=values["keepers"],
        listen=_listen(values["listen"], folder),
        tls=_tls(values["tls"], folder),
        name=values["name"],
    )


def _listen(values: Mapping[str, Any], folder: Path) -> ListenConfig:
    return ListenConfig(values["host"], values["advertise_host"], _tls(values["tls"], folder))


def _tls(values: Mapping[str, str] | None, folder: Path) -> TlsConfig | None:
    return None if values is None else TlsConfig(**{name: _file(path, folder) for name, path in values.items()})


def _file(path: str, folder: Path) -> str:
    return str(local_path(folder / Path(path).expanduser())) if path else ""


def _artifacts(value: str, folder: Path) -> str:
    return value if "://" in value else Path(_file(value, folder)).as_uri()


# ------------------------------------------------------------------------------------------------ mesh.json


def _from_mesh_json(path: Path) -> Connection:
    """Reads what a local mesh wrote; fields that only its own commands need are left alone."""
    if not path.exists():
        raise FailedPrecondition(
            f"no local mesh in {path.parent} (no {MESH_JSON}): start one with `mesh up --dir {path.parent}`"
        )
    document = Document(None, str(path))
    try:
        value = json.loads(read_text(path))
    except ValueError as error:
        raise SpecError(f"is not valid JSON: {error}", source=str(path)) from error
    if not isinstance(value, dict) or value.get("version") != MESH_JSON_VERSION:
        raise SpecError(f"is not a {MESH_JSON} of version {MESH_JSON_VERSION}", source=str(path), field="version")
    reading = Reading()
    at = reading.root()
    etcd = _ETCD.read(_known(value.get("etcd"), _ETCD), at.child("etcd"))
    artifacts = PathText().read(value.get("artifacts", ""), at.child("artifacts"))
    clusters = ListOf(_CLUSTER).read(
        [_known(entry, _CLUSTER) for entry in value.get("clusters", ())], at.child("clusters")
    )
    tls = _TLS.read(_known(value["tls"], _TLS), at.child("tls")) if value.get("tls") else None
    if reading.problems:
        raise document.error(reading.problems)
    values = TABLE.defaults() | {"etcd": etcd, "artifacts": artifacts, "clusters": clusters, "tls": tls}
    config = _config(values, path.parent)
    gateways = {name: str(value.get(name, "")) for name in ("gateway", "gateway_grpc")}
    return Connection(config.etcd, config.artifacts, config.tls, config.clusters, **gateways)


def _known(value: Any, record: Record) -> Any:
    return {name: value[name] for name in record.names if name in value} if isinstance(value, Mapping) else value
