"""Runs inside the process that `mesh model check` starts: loads the repository and writes what became of each model."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from serving.errors import Code, MeshError


def main(text: str) -> None:
    """`text` is the request in JSON; the answer goes to the file that it names."""
    request = json.loads(text)
    answer: dict[str, Any]
    try:
        answer = {"models": _load(request)}
    except MeshError as error:
        answer = {"error": error.message, "code": int(error.code)}
    except ImportError as error:
        advice = "build it with `make setup`, or install the package with `pip install .`"
        answer = {"error": f"the extension serving._native cannot be loaded ({error}): {advice}"}
        answer["code"] = int(Code.FAILED_PRECONDITION)
    Path(request["answer"]).write_text(json.dumps(answer), encoding="utf-8")


def _load(request: dict[str, Any]) -> list[dict[str, Any]]:
    from serving._native import TritonServer

    with TritonServer(
        repository=request["repository"],
        library=request["library"],
        backend_directory=request["backend_directory"],
        models=request["models"],
        log_file=request["log_file"],
    ) as server:
        names = sorted({str(item["name"]) for item in server.index()} | set(server.load_errors))
        wanted = [name for name in names if not request["models"] or name in request["models"]]
        return [_one(server, name) for name in wanted]


def _one(server: Any, name: str) -> dict[str, Any]:
    reason = server.load_errors.get(name, "")
    if reason or not server.is_ready(name):
        return {"name": name, "state": "FAILED", "reason": reason or "it is not ready, and Triton does not say why"}
    metadata = server.model_metadata(name)
    return {
        "name": name,
        "state": "READY",
        "reason": "",
        "versions": list(metadata["versions"]),
        "platform": metadata["platform"],
        "inputs": [_tensor(item) for item in metadata["inputs"]],
        "outputs": [_tensor(item) for item in metadata["outputs"]],
        "config": server.model_config(name),
    }


def _tensor(item: dict[str, Any]) -> dict[str, Any]:
    return {"name": item["name"], "datatype": item["datatype"], "shape": [int(size) for size in item["shape"]]}


if __name__ == "__main__":
    main(sys.argv[1])
