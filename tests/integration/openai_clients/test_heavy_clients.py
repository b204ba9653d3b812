"""LiteLLM as a library and the npm package `openai`, from an environment of their own that is made on demand."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.integration.openai_clients.conftest import Served
from tests.support.mesh import ROOT

pytestmark = pytest.mark.long
HERE = Path(__file__).parent
FOLDER = ROOT / "build" / "openai-clients"


@pytest.fixture(scope="session")
def installed() -> None:
    done = subprocess.run([ROOT / "scripts" / "openai-clients"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def seen_by(command: list[str]) -> Any:
    """The line of JSON that it ends with."""
    env = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=170, env=env, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def check(seen: Any) -> None:
    """What both clients look at."""
    assert "Tokyo" in seen["whole"]
    assert (seen["streamed"], seen["streamedTokens"]) == (seen["whole"], seen["tokens"])
    assert seen["call"] == ["get_weather", {"city": "Oslo"}]
    assert seen["response"] == seen["whole"]
    assert seen["completion"] == 3


@pytest.mark.usefixtures("installed")
def test_the_npm_package(base: str, served: Served) -> None:
    package = FOLDER / "npm" / "node_modules" / "openai" / "index.mjs"
    seen = seen_by(
        [str(FOLDER / "bin" / "node"), str(HERE / "npm_client.mjs"), f"{base}/v1", served.model, package.as_uri()]
    )
    check(seen)
    assert seen["legs"] in (2, 4)
    assert {"response.created", "response.output_text.delta", "response.completed"} <= set(seen["events"])
    assert seen["models"] == [served.model]
    assert seen["error"] == ["NotFoundError", 404, "model_not_found", "model"]


@pytest.mark.usefixtures("installed")
def test_litellm(base: str, served: Served) -> None:
    seen = seen_by([str(FOLDER / "bin" / "python"), str(HERE / "litellm_client.py"), f"{base}/v1", served.model])
    check(seen)
    assert seen["asynchronous"] == seen["whole"]
    assert seen["error"] == 404
