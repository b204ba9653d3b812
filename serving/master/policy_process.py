"""The process of one autoscaling policy that users wrote: `python -m serving.master.policy_process FOLDER ENTRY`.

Each line on standard input is a load as a JSON object; each is answered with one line on standard output:
`{"size": 3}` or `{"error": "..."}`. What the function prints goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any, TextIO

from serving.sdk.scaling import ScalingLoad


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what user code prints must not be taken for an answer
    folder, entry = sys.argv[1:3]
    if folder:
        sys.dont_write_bytecode = True  # the code is shared, and never changes
        sys.path.insert(0, folder)
    try:
        policy = load(entry)
    except Exception as error:
        answers.write(_line({"error": f"{entry} cannot be loaded: {type(error).__name__}: {error}"}))
        raise
    answer_all(policy, sys.stdin, answers)


def load(entry: str) -> Callable[[ScalingLoad], Any]:
    """The function `module:function`. Raises what its import raises, and `TypeError` when it is none."""
    module, _, name = entry.partition(":")
    found: Any = import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    if not callable(found):
        raise TypeError(f"{name} is not a function")
    policy: Callable[[ScalingLoad], Any] = found
    return policy


def answer_all(policy: Callable[[ScalingLoad], Any], questions: TextIO, answers: TextIO) -> None:
    for line in questions:
        try:
            answer = {"size": float(policy(ScalingLoad(**json.loads(line))))}
        except Exception as error:  # noqa: BLE001 - the same of the function
            answer = {"error": f"{type(error).__name__}: {error}"}  # type: ignore[dict-item]
        answers.write(_line(answer))


def _line(answer: dict[str, Any]) -> str:
    return json.dumps(answer) + "\n"


if __name__ == "__main__":
    main()
