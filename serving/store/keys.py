"""Every key of the mesh in etcd, made and taken apart in one place. Pure.

Names of namespaces, applications, deployments and clusters are DNS labels (see `serving.types.NAME_PATTERN`), so that a
slash can stand only between the parts of a key.
"""

from __future__ import annotations

from dataclasses import dataclass

ROOT = "/mesh/v1/"
CLUSTERS = ROOT + "clusters/"
APPS = ROOT + "apps/"
PLACEMENTS = ROOT + "placements/"
ENDPOINTS = ROOT + "endpoints/"
DELETED = ROOT + "deleted/"
API_KEYS = ROOT + "keys/"
SHARES = ROOT + "shares/"
GATEWAYS = ROOT + "gateways/"
ROUTES = ROOT + "routes/"
FILES = ROOT + "files/"
BATCHES = ROOT + "batches/"
KEEPER_ELECTION = ROOT + "election/keeper/"


@dataclass(frozen=True, slots=True, order=True)
class AppKey:
    """Names an application: `<namespace>/<name>`."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def cluster(name: str) -> str:
    return f"{CLUSTERS}{name}"


def app(key: AppKey) -> str:
    """Prefix of everything that keepers and masters store about one application."""
    return f"{APPS}{key.namespace}/{key.name}/"


def spec(key: AppKey) -> str:
    return app(key) + "spec"


def revisions(key: AppKey) -> str:
    return app(key) + "revisions/"


def revision(key: AppKey, number: int) -> str:
    """Zero-padded, so that the order of the keys is the order of the revisions."""
    return f"{revisions(key)}{number:010d}"


def decision(key: AppKey) -> str:
    return app(key) + "decision"


def status(key: AppKey) -> str:
    return app(key) + "status"


def traffic(key: AppKey) -> str:
    """How requests are shared among the application's endpoints; see docs/design/0013-traffic.md."""
    return app(key) + "traffic"


def load(key: AppKey) -> str:
    """What the load of the application's deployments was, for forecasts."""
    return app(key) + "load"


def placements(cluster_name: str) -> str:
    return f"{PLACEMENTS}{cluster_name}/"


def placement(cluster_name: str, key: AppKey) -> str:
    return f"{placements(cluster_name)}{key.namespace}/{key.name}"


def route(name: str) -> str:
    """Which models answer for a name at the gateways; see docs/design/0019-routes.md."""
    return f"{ROUTES}{name}"


def files(namespace: str) -> str:
    """Prefix of the records of a namespace's files; see docs/design/0022-batch.md."""
    return f"{FILES}{namespace}/"


def file(namespace: str, file_id: str) -> str:
    return f"{files(namespace)}{file_id}"


def batches(namespace: str) -> str:
    return f"{BATCHES}{namespace}/"


def batch(namespace: str, batch_id: str, part: str) -> str:
    """`part`: "order", "status", "cancel", "claim" or "application"."""
    return f"{batches(namespace)}{batch_id}/{part}"


def deleted(key: AppKey, uid: str) -> str:
    """The tombstone of a deleted application; see docs/design/0002-store-loss.md."""
    return f"{DELETED}{key.namespace}/{key.name}/{uid}"


def endpoints(key: AppKey, role: str = "", deployment: str = "") -> str:
    """Prefix of an application's endpoints, narrowed to a role and to a deployment of it where given."""
    prefix = f"{ENDPOINTS}{key.namespace}/{key.name}/"
    if role:
        prefix += f"{role}/"
        if deployment:
            prefix += f"{deployment}/"
    return prefix


def endpoint(key: AppKey, role: str, deployment: str, endpoint_id: str) -> str:
    return f"{endpoints(key, role, deployment)}{endpoint_id}"


def api_key(key_id: str) -> str:
    return f"{API_KEYS}{key_id}"


def shares(key_id: str) -> str:
    """Prefix of what gateways may use of an API key's limits; see docs/design/0017-api-keys.md."""
    return f"{SHARES}{key_id}/"


def share(key_id: str, gateway_id: str) -> str:
    return f"{shares(key_id)}{gateway_id}"


def gateway(gateway_id: str) -> str:
    return f"{GATEWAYS}{gateway_id}"


def parse_share(key: str) -> tuple[str, str] | None:
    """`/mesh/v1/shares/<key>/<gateway>` → API key and gateway; None for any other key."""
    parts = key.removeprefix(SHARES).split("/")
    if not key.startswith(SHARES) or len(parts) != 2:
        return None
    return parts[0], parts[1]


def parse_app(key: str) -> tuple[AppKey, str] | None:
    """`/mesh/v1/apps/<ns>/<app>/<rest>` → the application and `<rest>`; None for any other key."""
    parts = key.removeprefix(APPS).split("/", 2)
    if not key.startswith(APPS) or len(parts) != 3:
        return None
    return AppKey(parts[0], parts[1]), parts[2]


def parse_placement(key: str) -> tuple[str, AppKey] | None:
    """`/mesh/v1/placements/<cluster>/<ns>/<app>` → cluster and application; None for any other key."""
    parts = key.removeprefix(PLACEMENTS).split("/")
    if not key.startswith(PLACEMENTS) or len(parts) != 3:
        return None
    return parts[0], AppKey(parts[1], parts[2])


def parse_batch(key: str) -> tuple[str, str, str] | None:
    """`/mesh/v1/batches/<ns>/<id>/<part>` → namespace, batch and part; None for any other key."""
    parts = key.removeprefix(BATCHES).split("/")
    if not key.startswith(BATCHES) or len(parts) != 3:
        return None
    return parts[0], parts[1], parts[2]


def parse_deleted(key: str) -> tuple[AppKey, str] | None:
    """`/mesh/v1/deleted/<ns>/<app>/<uid>` → the application and the uid; None for any other key."""
    parts = key.removeprefix(DELETED).split("/")
    if not key.startswith(DELETED) or len(parts) != 3:
        return None
    return AppKey(parts[0], parts[1]), parts[2]


def parse_cluster(key: str) -> str | None:
    name = key.removeprefix(CLUSTERS)
    return name if key.startswith(CLUSTERS) and name and "/" not in name else None
