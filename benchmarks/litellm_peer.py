"""LiteLLM's proxy in front of an OpenAI server, from a virtual environment of its own below build/."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Final

from benchmarks.servers import ROOT
from serving.errors import FailedPrecondition
from serving.local.ports import free_ports

VERSION: Final = "1.105.0"
_ENVIRONMENT: Final = ROOT / "build" / f"litellm-{VERSION}"
_START_S: Final = 120.0
Say = Callable[[str], None]


def install(say: Say) -> None:
    """Once; some 700 MB. Raises `FailedPrecondition` with pip's reason."""
    program = _ENVIRONMENT / "bin" / "litellm"
    if program.exists():
        return
    say(f"installing LiteLLM {VERSION} into {_ENVIRONMENT.relative_to(ROOT)}")
    subprocess.run([sys.executable, "-m", "venv", str(_ENVIRONMENT)], check=True)
    command = [str(_ENVIRONMENT / "bin" / "pip"), "install", "--quiet", f"litellm[proxy]=={VERSION}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise FailedPrecondition(f"LiteLLM {VERSION} cannot be installed: {done.stderr.strip().splitlines()[-1:]}")


@contextlib.contextmanager
def running(model: str, upstream: str) -> Iterator[tuple[str, int]]:
    """Its URL and pid: one worker, no log of requests, `model` sent on to `upstream`. Ended with the block."""
    port = free_ports(1)[0]
    folder = ROOT / "build" / "bench-openai"
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "litellm.yaml"
    route = {"model": f"openai/{model}", "api_base": f"{upstream}/v1", "api_key": "none"}
    settings = {"num_retries": 0, "drop_params": False, "telemetry": False, "turn_off_message_logging": True}
    config.write_text(
        json.dumps({"model_list": [{"model_name": model, "litellm_params": route}], "litellm_settings": settings})
    )
    program = [str(_ENVIRONMENT / "bin" / name) for name in ("python", "litellm")]
    command = [*program, "--config", str(config), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--num_workers", "1", "--telemetry", "False"]
    env = {**os.environ, "LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    env["LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY"] = "true"  # on loopback; keys would cost it time
    with (folder / "litellm.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=env)
    try:
        _wait_ready(process, f"http://127.0.0.1:{port}/health/liveliness")
        yield f"http://127.0.0.1:{port}", process.pid
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_ready(process: subprocess.Popen[bytes], url: str) -> None:
    until = time.monotonic() + _START_S
    while time.monotonic() < until:
        if process.poll() is not None:
            raise FailedPrecondition(f"LiteLLM ended with {process.returncode}; see build/bench-openai/litellm.log")
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2) as answer:
            if answer.status == 200:
                return
        time.sleep(0.2)
    raise FailedPrecondition(f"LiteLLM does not answer after {_START_S:g} s; see build/bench-openai/litellm.log")
