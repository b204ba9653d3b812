"""Log files that `mesh logs` cannot read because other machines have them: named, with their nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from serving.errors import MeshError
from serving.timeouts import wait_for

if TYPE_CHECKING:
    from serving._proto import keeper_pb2 as api
    from serving.cli.options import Settings
    from serving.sdk import AppStatus
    from serving.store.keys import AppKey

PATIENCE_S: Final = 2.0  # the logs that are here are shown whether a keeper answers or not


def elsewhere(
    settings: Settings, key: AppKey, deployment: str, replica: str, here: Collection[Path]
) -> tuple[list[str], str]:
    """A sentence for each file that is wanted and not `here`; and why that is not known, "" where it is."""
    try:
        status, clusters = asyncio.run(wait_for(_ask(settings, key), PATIENCE_S))
    except MeshError as error:
        return [], f"whether other machines have some is not known: {error.message}"
    except asyncio.TimeoutError:
        return [], "whether other machines have some is not known: no keeper answers"
    found = _files(settings.folder(), key, deployment, replica, status, clusters)
    return [text for path, text in found if path not in here], ""


async def _ask(settings: Settings, key: AppKey) -> tuple[AppStatus, tuple[api.ClusterView, ...]]:
    from serving.sdk import AsyncMeshClient

    async with AsyncMeshClient(settings.connection()) as client:
        return await client.status(key), await client.clusters()


def _files(
    folder: Path, key: AppKey, deployment: str, replica: str, status: AppStatus, clusters: tuple[api.ClusterView, ...]
) -> Iterator[tuple[Path, str]]:
    """Of the master and of every replica that a node was found for."""
    nodes = {node.id: node.address for view in clusters for node in view.record.nodes}
    advice = "read it there, or have the nodes share the mesh's folder"
    master = folder / "logs" / "masters" / f"{key.namespace}.{key.name}.log"
    if not deployment and status.deployments:
        yield master, f"the master runs on another machine of cluster {status.cluster}: its log is {master} there"
    for one in status.deployments:
        for row in one.replicas:
            if not row.node or (deployment and one.name != deployment) or (replica and row.id != replica):
                continue
            path = folder / "logs" / "replicas" / key.namespace / key.name / one.name / f"{row.id}.log"
            node = nodes.get(row.node, row.node)
            yield path, f"{row.id} runs on node {node} of cluster {status.cluster}: its log is {path} there; {advice}"
