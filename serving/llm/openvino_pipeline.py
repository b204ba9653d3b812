"""OpenVINO GenAI's continuous batching with its traps closed: what may be called when, and what its answers mean.

Everything here belongs to one thread, the engine's.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serving.errors import FailedPrecondition
from serving.llm.engine import FinishReason, Sampling
from serving.llm.engine_errors import UNREADABLE, one_line
from serving.llm.openvino_config import ModelFiles, OpenVinoOptions
from serving.llm.openvino_guide import structured_output
from serving.llm.requests import seed_of_32_bits

_DRAIN_STEPS = 8
# One text's tokens are made by one thread, whatever there is: handing it to another one takes twice the time.
_TOKENIZER: Mapping[str, Any] = {"INFERENCE_NUM_THREADS": 1}


@dataclass(slots=True)
class Output:
    """What one request had after a step. `lost`: the pipeline gave it up for want of cache, without any answer."""

    tokens: list[int]
    logprobs: list[float]
    finish: FinishReason | None = None
    lost: bool = False


class Pipeline:
    """The model in memory."""

    def __init__(self, genai: Any, native: Any, files: ModelFiles, options: OpenVinoOptions) -> None:
        """Loads it, and computes one token, so that a model that cannot be run is known here.

        Raises `FailedPrecondition` with what OpenVINO says.
        """
        import numpy
        import openvino

        self._genai = genai
        self._native = native
        self._tensor: Callable[[Sequence[int]], Any] = lambda ids: openvino.Tensor(numpy.array([ids], numpy.int64))
        self._requests = 0
        self.cache_tokens = files.blocks(options) * options.block_tokens
        self.keeps_prefixes = options.prefix_cache
        scheduler = genai.SchedulerConfig()
        scheduler.cache_size = 0
        scheduler.num_kv_blocks = files.blocks(options)
        scheduler.max_num_seqs = options.max_running
        scheduler.max_num_batched_tokens = options.max_batched_tokens
        scheduler.enable_prefix_caching = options.prefix_cache
        try:
            self._pipeline = genai.ContinuousBatchingPipeline(
                str(files.path), scheduler, options.device, options.plugin_properties(), _TOKENIZER
            )
            self.tokenizer = self._pipeline.get_tokenizer()
            self._compute_one_token()
        except (RuntimeError, ValueError, TypeError) as error:
            raise FailedPrecondition(f"OpenVINO cannot run the model {files.path}: {one_line(error)}") from error

    def add(self, prompt: Sequence[int], sampling: Sampling, max_tokens: int) -> Any:
        """A handle. Raises `RuntimeError` or `ValueError` for parameters that the engine refuses."""
        self._requests += 1
        config = generation_config(self._genai, sampling, max_tokens, self._native)
        return self._pipeline.add_request(self._requests, self._tensor(prompt), config)

    def has_work(self) -> bool:
        busy: bool = self._pipeline.has_non_finished_requests()
        return busy

    def step(self) -> None:
        """Raises `RuntimeError`: then every request that was in it is unusable, and only `drain` helps."""
        try:
            if self._native is not None:
                self._native.step(self._pipeline)
            else:
                self._pipeline.step()  # holds the GIL all the time
        except UnicodeDecodeError as error:  # an error whose message cannot become a text of Python
            raise RuntimeError(UNREADABLE) from error

    def read(self, handle: Any) -> Output:
        """What is there. `handle.read()` itself would wait without end, holding the GIL, when nothing is there."""
        output = Output([], [])
        while handle.can_read():
            for part in handle.read().values():
                output.tokens += part.generated_ids
                output.logprobs += part.generated_log_probs
                output.finish = self._finish(part.finish_reason)
        if not output.tokens and output.finish is None:
            output.lost = handle.get_status() == self._genai.GenerationStatus.IGNORED
        return output

    def drain(self, handles: Sequence[Any]) -> bool:
        """Cancels these, and steps until none is left. Whether that worked."""
        for handle in handles:
            handle.cancel()
        for _ in range(_DRAIN_STEPS):
            if not self.has_work():
                return True
            try:
                self.step()
            except RuntimeError:
                continue  # requests of the failed step may make some more fail; what counts is that none is left
        return not self.has_work()

    def cache_usage(self) -> float:
        """0 to 1, at the last step."""
        return float(self._pipeline.get_metrics().cache_usage) / 100

    def _finish(self, reason: Any) -> FinishReason | None:
        if reason == self._genai.GenerationFinishReason.NONE:
            return None
        return "length" if reason == self._genai.GenerationFinishReason.LENGTH else "stop"

    def _compute_one_token(self) -> None:
        handle = self.add([0], Sampling(max_tokens=1, temperature=0, ignore_eos=True), 1)
        while self.has_work():
            self.step()
        if not self.read(handle).tokens:
            raise RuntimeError("its cache of keys and values cannot hold one token")


def generation_config(genai: Any, sampling: Sampling, max_tokens: int, native: Any) -> Any:
    config = genai.GenerationConfig()
    config.apply_chat_template = False
    config.max_new_tokens = max_tokens
    config.min_new_tokens = min(sampling.min_tokens, max_tokens)
    config.ignore_eos = sampling.ignore_eos
    config.stop_token_ids = set(sampling.stop_token_ids)
    config.presence_penalty = sampling.presence_penalty
    config.frequency_penalty = sampling.frequency_penalty
    config.repetition_penalty = sampling.repetition_penalty
    config.logprobs = int(sampling.logprobs)
    if sampling.temperature > 0:
        config.do_sample = True
        config.temperature = sampling.temperature
        config.top_p = sampling.top_p
        config.min_p = sampling.min_p
        # Without a seed its default would be the same for all requests.
        config.rng_seed = secrets.randbits(32) if sampling.seed is None else seed_of_32_bits(sampling.seed)
        if sampling.top_k > 0:
            config.top_k = sampling.top_k
    else:
        config.do_sample = False
    if sampling.guide is not None:
        config.structured_output_config = structured_output(genai, sampling.guide, native)
    return config
