"""Workers that find a deployment's code when they want it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from serving._proto import records_pb2 as pb
from serving.deployment.artifact_archive import pack
from serving.python_deployment.workers import worker_variables

WORKER = """
import importlib, sys
from serving.python_deployment.workers import set_up
set_up()
for name in sys.argv[1:]:
    try:
        print(importlib.import_module(name).__name__)
    except ImportError as error:
        print(error)
"""


def imported(config: pb.ReplicaConfig, *modules: str) -> list[str]:
    command = [sys.executable, "-c", WORKER, *modules]
    env = {**os.environ, **worker_variables(config), "PYTHONPATH": str(Path(__file__).parents[3])}
    return subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout.splitlines()


def configured(tmp_path: Path) -> pb.ReplicaConfig:
    code = tmp_path / "code"
    (code / "parts").mkdir(parents=True)
    (code / "team.py").write_text("import parts.one\nimport json\n")
    (code / "parts" / "__init__.py").touch()
    (code / "parts" / "one.py").touch()
    config = pb.ReplicaConfig(cache_dir=str(tmp_path / "cache"))
    config.python.code.CopyFrom(pack(code, (tmp_path / "artifacts").as_uri()))
    return config


def test_the_code_is_fetched_for_the_first_module_that_nobody_has(tmp_path: Path) -> None:
    config = configured(tmp_path)
    assert imported(config, "json") == ["json"]
    assert not (tmp_path / "cache").exists()
    assert imported(config, "team", "parts.one", "nobody") == ["team", "parts.one", "No module named 'nobody'"]


def test_code_that_cannot_be_had_is_said_and_tried_again(tmp_path: Path) -> None:
    config = configured(tmp_path)
    config.python.code.uri = (tmp_path / "elsewhere").as_uri()
    told = imported(config, "team", "team")
    assert len(told) == 2
    assert all(line.startswith("team: the deployment's code cannot be had: ") for line in told), told
