"""Brokers and replicas that pull from them, as processes that a test starts, follows and ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from serving._proto import records_pb2 as pb
from serving.config import EtcdConfig
from tests.support.llm_serving import ReplicaProcess, config_of

WORKER = "worker"  # the deployment, and its model


class BrokerProcess(ReplicaProcess):
    module = "serving.broker"


class PythonProcess(ReplicaProcess):
    module = "serving.python_deployment"


def broker_config(
    folder: Path, etcd: EtcdConfig, *, name: str = "queue-r1-0", application: str = "app", **changes: Any
) -> pb.ReplicaConfig:
    """Of a broker whose journals lie in `folder`. `changes` are fields of `BrokerDeployment`."""
    broker = pb.BrokerDeployment(**{"before": [WORKER, "chat"], "lease_s": 30.0, **changes})
    return config_of(name, "queue", etcd, application=application, cache_dir=str(folder / "cache"), broker=broker)


def worker_config(
    folder: Path, etcd: EtcdConfig, *, name: str = "worker-r1-0", application: str = "app", entry: str = "Worker"
) -> pb.ReplicaConfig:
    """Of a replica of `tests.support.queued_work`, which notes in `folder` what it runs."""
    python = pb.PythonDeployment(
        entry=f"tests.support.queued_work:{entry}", args=json.dumps({"folder": str(folder)}), model=WORKER
    )
    return config_of(name, WORKER, etcd, application=application, cache_dir=str(folder / "cache"), python=python)


def told(folder: Path) -> list[str]:
    """What replicas have noted, `began 7`, `ended 7`, `stopped 7`, in this order."""
    file = folder / "runs"
    return file.read_text().splitlines() if file.exists() else []


def go(folder: Path) -> None:
    """What waits in replicas may end."""
    (folder / "go").touch()
