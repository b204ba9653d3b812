"""Guides for vLLM: read by its own xgrammar before they are submitted, so that no request can make a step fail."""

from __future__ import annotations

import json
from typing import Any

from serving.llm.engine import Guide
from serving.llm.engine_errors import one_line
from serving.llm.guides import ANY_OBJECT, GuideRefused, KnownGuides, check_guide, check_size
from serving.llm.vllm_package import VllmPackage


class VllmGuides:
    """`config` is vLLM's own (`vllm_config`). Belongs to one event loop."""

    def __init__(self, package: VllmPackage, config: Any, tokenizer: Any) -> None:
        self._package = package
        self._config = config
        self._tokenizer = tokenizer
        self._known = KnownGuides()

    def check(self, guide: Guide) -> None:
        """Raises `InvalidArgument` for a guide that is wrong by its own language or that vLLM cannot follow."""
        check_guide(guide)
        self.structured_outputs(guide)

    def structured_outputs(self, guide: Guide) -> Any:
        """vLLM's form of a guide. Raises `InvalidArgument` as `check_size`, and `GuideRefused`."""
        check_size(guide)
        if known := self._known.refusal(guide):
            raise GuideRefused(known)
        try:
            made = self._made(guide)
        except GuideRefused as error:
            self._known.remember(guide, error.why)
            raise
        self._known.remember(guide)
        return made

    def _made(self, guide: Guide) -> Any:
        """JSON becomes a grammar without free whitespace, the same that other engines of the mesh follow.

        vLLM's own option against it (`disable_any_whitespace`) also takes the blank behind commas and colons, which
        models are used to.
        """
        make = self._package.StructuredOutputsParams
        if guide.kind == "regex":
            return self._read(make(regex=guide.text), guide)
        if guide.kind == "grammar":
            return self._read(make(grammar=guide.text), guide)
        schema = guide.text or ANY_OBJECT
        known = json.loads(schema)
        if known is False:
            raise GuideRefused("no JSON value fits the schema `false`")
        if known is True:
            schema = "{}"  # the same, in the form that vLLM reads
        self._read(make(json=schema), guide)
        try:
            grammar = self._package.xgrammar.Grammar.from_json_schema(schema, any_whitespace=False)
        except RuntimeError as error:
            raise GuideRefused(one_line(error)) from error
        return make(grammar=str(grammar))

    def _read(self, structured: Any, guide: Guide) -> Any:
        """By vLLM's own reader, which the engine would ask again."""
        if self._known.is_proven(guide):
            return structured
        package, config = self._package, self._config
        params = package.SamplingParams(structured_outputs=structured)
        try:
            params.verify(
                config.model_config, config.speculative_config, config.structured_outputs_config, self._tokenizer
            )
        except package.refusals as error:
            raise GuideRefused(one_line(error.__cause__ or error)) from error
        return structured
