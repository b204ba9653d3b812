"""`mesh artifacts prune` against a real etcd."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path

from click.testing import CliRunner, Result

from serving.cli.group import mesh
from serving.deployment.artifact_sweep import MIN_AGE_S
from serving.local.etcd import EtcdOptions, start_etcd
from serving.store import EtcdClient, keys
from serving.store.keys import AppKey


def archive(folder: Path, letter: str) -> Path:
    path = folder / f"{letter * 64}.tar"
    path.write_bytes(b"x" * 10)
    os.utime(path, (time.time() - MIN_AGE_S - 60,) * 2)
    return path


def test_only_what_nothing_names_is_removed(tmp_path: Path) -> None:
    store = tmp_path / "artifacts"
    store.mkdir()
    named, other = archive(store, "a"), archive(store, "b")
    etcd = start_etcd(tmp_path / "etcd", options=EtcdOptions(die_with_parent=True))
    config = tmp_path / "mesh.yaml"
    config.write_text(
        f"etcd: {{endpoints: ['{etcd.endpoints[0]}']}}\nartifacts: ./artifacts\n"
        "clusters: [{name: east, ray_address: '127.0.0.1:1'}]\n"
    )

    def prune(*more: str) -> Result:
        return CliRunner().invoke(mesh, ["artifacts", "prune", "--config", str(config), *more])

    async def deploy() -> None:
        client = EtcdClient(etcd.config())
        try:
            await client.put(keys.spec(AppKey("default", "digits")), f'{{"digest":"sha256:{"a" * 64}"}}'.encode())
        finally:
            await client.close()

    try:
        refused = prune()
        assert refused.exit_code == 1
        assert "holds no application" in refused.stderr
        asyncio.run(deploy())
        shape = json.loads(prune("--dry-run", "--json").stdout)
        assert shape == {
            "artifacts": store.as_uri(),
            "removed": False,
            "bytes": 10,
            "archives": [other.as_uri()],
        }
        assert other.exists()
        assert "1 archives, 0.0 MiB, were removed" in prune().stdout
        assert (named.exists(), other.exists()) == (True, False)
        assert "0 archives" in prune().stdout
    finally:
        etcd.stop()
    assert prune("--older-than", "1").exit_code == 2
