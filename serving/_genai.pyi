"""What OpenVINO GenAI's own Python module lacks (C++, `cpp_ext/genai`)."""

from typing import Any

class GenAi:
    """Functions of the library of OpenVINO GenAI that this process has loaded; give up the GIL while they run."""

    def __init__(self, library: str) -> None:
        """`library`: the path of `libopenvino_genai.so.*`. Raises `RuntimeError` when it is not loaded, or another."""

    def step(self, pipeline: Any) -> None:
        """`ContinuousBatchingPipeline.step`, whose own Python method holds the GIL. Raises `RuntimeError` like it."""

    def check_regex(self, text: str) -> None:
        """Raises `RuntimeError` with what xgrammar cannot read; so do the others."""

    def check_grammar(self, text: str) -> None: ...
    def schema_grammar(self, text: str) -> str:
        """The grammar (EBNF, rule `root`) of what a JSON schema allows, written on one line as `json.dumps` does."""
