"""OpenVINO GenAI's package, and what the mesh adds to it in C++ (`serving._genai`)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from serving.errors import FailedPrecondition


def import_genai() -> Any:
    """The package, without OpenVINO's telemetry (which forks the process and sends a report at each import).

    Raises `FailedPrecondition` with what to install.
    """
    if "openvino_telemetry" not in sys.modules:
        # How Python spells "not to be imported"; OpenVINO takes its own stub then.
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        import openvino_genai
    except ImportError as error:
        raise FailedPrecondition(
            f"the engine `openvino` needs the package openvino-genai (pip install openvino-genai): {error}"
        ) from error
    return openvino_genai


def load_native(genai: Any) -> tuple[Any, str]:
    """A `serving._genai.GenAi`, or None and why: it was not built, or does not fit this version of the package.

    Without it an engine computes the same, but nothing else of its process runs during a step.
    """
    try:
        from serving._genai import GenAi
    except ImportError as error:
        return None, str(error)
    libraries = sorted(Path(genai.__file__).parent.glob("libopenvino_genai.so*"))
    if not libraries:
        return None, f"there is no libopenvino_genai.so beside {genai.__file__}"
    try:
        return GenAi(str(libraries[0])), ""
    except RuntimeError as error:
        return None, str(error)
