"""A complete application file that the tests vary."""

from __future__ import annotations

from pathlib import Path

import pytest

FULL = """\
name: digits
namespace: default
labels: {team: vision}
placement:
  clusters: [east, west]
  required_labels: {region: eu}
  preferred_labels: {disk: ssd}
  spread_from: [other]
  near: [cache]
deployments:
  - name: digits
    triton:
      repository: ./models
      models: [digits]
      backends: {openvino: {INFERENCE_NUM_THREADS: 1}}
      event_loops: 1
      max_message_bytes: 64Mi
      max_requests: 64
      busy_poll_us: 100
      log_verbosity: 2
      model_control: explicit
      update: in_place
    resources: {cpus: 500m, gpus: 0.5, accelerator_type: H200, memory: 512Mi, custom: {nvme: 1}}
    replicas: {min: 2, max: 2}
    env: {A: b}
    max_restarts: 3
    start_timeout: 2m
    drain_timeout: 45s
    rollout: {max_surge: 25%, max_unavailable: 1, min_ready: 5s}
on_failed_rollout: rollback
"""


@pytest.fixture
def full() -> str:
    return FULL


@pytest.fixture
def app_file(tmp_path: Path) -> Path:
    """The file on disk, with its folder of models."""
    (tmp_path / "models" / "digits").mkdir(parents=True)
    path = tmp_path / "app.yaml"
    path.write_text(FULL)
    return path
