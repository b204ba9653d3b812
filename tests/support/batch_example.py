"""What the batch example asks, without clusters: an etcd, a replica of the tiny chat model, a gateway, and a folder
that says where they are, as `mesh up` writes one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from serving.config import EtcdConfig
from serving.local.etcd import EtcdOptions, start_etcd
from tests.support.llm_serving import GatewayProcess, LlmProcess, llm_config
from tests.support.mesh import ROOT


def start_chat(folder: Path, stack: ExitStack) -> Path:
    """The folder for `$MESH_DIR`."""
    etcd = start_etcd(folder / "etcd", options=EtcdOptions(die_with_parent=True))
    stack.callback(etcd.kill)
    chat = LlmProcess(folder, llm_config(folder, etcd=etcd.config()))
    stack.callback(chat.end)
    chat.wait_state("ready", registered=True)
    gateway = GatewayProcess(folder, etcd.config())
    stack.callback(gateway.end)
    return tell_where(folder, etcd.config(), gateway.url)


def tell_where(folder: Path, etcd: EtcdConfig, gateway: str) -> Path:
    """A folder below, as `mesh up` writes it."""
    mesh = folder / "mesh"
    mesh.mkdir(exist_ok=True)
    where = {
        "version": 1,
        "artifacts": str(folder / "artifacts"),
        "etcd": {"endpoints": list(etcd.endpoints)},
        "gateway": gateway.removeprefix("http://"),
    }
    (mesh / "mesh.json").write_text(json.dumps(where))
    return mesh


def run_example(module: str, *words: str, env: dict[str, str], timeout_s: float) -> str:
    """What it said. Fails with it where it fails."""
    command = [sys.executable, "-m", f"examples.batch.{module}", *words]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **env}, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout
