"""GPUs are counted as the driver's tool lists them."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.errors import InvalidArgument
from serving.local.gpus import count_gpus
from serving.local.options import UpOptions

LISTED = """\
GPU 0: NVIDIA H200 (UUID: GPU-0)
  MIG 1g.18gb     Device  0: (UUID: MIG-0)
GPU 1: NVIDIA H200 (UUID: GPU-1)
"""


@pytest.fixture
def tool(tmp_path: Path) -> Path:
    path = tmp_path / "nvidia-smi"
    path.write_text(f"#!/bin/sh\n[ \"$1\" = -L ] && echo '{LISTED.rstrip()}'\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("visible", "count"), [(None, 2), ("1", 1), ("0,1,2,3", 2), ("", 0), ("-1", 0), ("GPU-0,GPU-1", 2)]
)
def test_listed_and_visible(tool: Path, visible: str | None, count: int) -> None:
    environment = {"PATH": str(tool.parent)} | ({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})
    assert count_gpus(environment) == count


def test_no_tool_or_one_that_fails(tool: Path, tmp_path: Path) -> None:
    assert count_gpus({"PATH": str(tmp_path / "elsewhere")}) == 0
    tool.write_text("#!/bin/sh\necho 'GPU 0: lost'\nexit 9\n")
    assert count_gpus({"PATH": str(tool.parent)}) == 0


def test_what_is_said_wins(tmp_path: Path) -> None:
    assert UpOptions(tmp_path, gpus_per_cluster=3).gpus() == 3
    assert UpOptions(tmp_path, gpus_per_cluster=0).gpus() == 0
    with pytest.raises(InvalidArgument, match="--gpus -1"):
        UpOptions(tmp_path, gpus_per_cluster=-1).validate()
