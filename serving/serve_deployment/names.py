"""What a deployment is called in Ray Serve, and what its paths begin with. Pure.

Both are unique to mesh, application, generation and replica, so that two revisions stand side by side in the one Serve
instance of a Ray cluster, beside applications of others.
"""

from __future__ import annotations

import hashlib
from typing import Final

from serving._proto import records_pb2 as pb
from serving.master.names import ReplicaName, parse_replica

_PARTS: Final = 5
_DIGEST_LETTERS: Final = 8


def application_name(ray_namespace: str, config: pb.ReplicaConfig) -> str:
    """`ray_namespace` is that of the mesh's actors. Its parts are DNS labels: none has a dot."""
    return ".".join((ray_namespace, config.namespace, config.application, f"g{config.generation}", config.id))


def actor_name(ray_namespace: str, application: str) -> ReplicaName | None:
    """Whose application of Ray Serve this is; None for one that no replica of this mesh has deployed."""
    parts = application.split(".")
    if len(parts) != _PARTS or parts[0] != ray_namespace:
        return None
    return parse_replica(f"replica:{parts[1]}/{parts[2]}:{parts[3]}:{parts[4]}")


def route_prefix(ray_namespace: str, config: pb.ReplicaConfig) -> str:
    """What the application's paths begin with.

    It ends with a digest of what is deployed: an application of our name with another prefix is not ours to adopt.
    """
    digest = hashlib.sha256(config.serve.SerializeToString(deterministic=True))
    for name in sorted(config.env):
        digest.update(f"\0{name}={config.env[name]}".encode())
    path = application_name(ray_namespace, config).replace(".", "/")
    return f"/{path}/{digest.hexdigest()[:_DIGEST_LETTERS]}"
