"""The engine over vLLM's `AsyncLLM`: Hugging Face folders, on GPUs (and on CPUs with a build of vLLM for them).

vLLM computes in a process of its own. Here, on the event loop, is one task for each generation that takes its tokens.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from serving.errors import FailedPrecondition, Internal, InvalidArgument, MeshError, Unavailable
from serving.llm.engine import Capabilities, EngineLoad, Generation, GenerationRequest, Guide
from serving.llm.engine_errors import one_line
from serving.llm.generation_stream import GenerationStream, Paces, call_on
from serving.llm.requests import room_for
from serving.llm.vllm_codec import HfCodec
from serving.llm.vllm_config import VllmOptions, check_folder
from serving.llm.vllm_guide import VllmGuides
from serving.llm.vllm_orphans import OrphanWatch
from serving.llm.vllm_package import VllmPackage, import_vllm
from serving.llm.vllm_request import sampling_params, token_event
from serving.llm.vllm_statistics import VllmStatistics
from serving.timeouts import cancel_and_wait

T = TypeVar("T")
_log = logging.getLogger(__name__)
_ENDED = "vLLM's process has ended; the replica's log says why"


class VllmEngine:
    """An `Engine`. How many may wait is its user's business: what is submitted waits in vLLM until there is a place."""

    def __init__(self, model: Path, options: Mapping[str, Any] | None = None) -> None:
        """`model`: a folder; `options`: those of `VllmOptions`, else `InvalidArgument`."""
        self._model = model
        self._options = VllmOptions.of(options or {})
        self._statistics = VllmStatistics()
        self._runs: dict[GenerationStream, asyncio.Task[None]] = {}
        self._numbers = itertools.count(1)
        self._loading: asyncio.Future[None] | None = None
        self._closing = asyncio.Lock()
        self._closed = False
        self._paces = Paces()
        self._package: VllmPackage | None = None
        self._watch: OrphanWatch | None = None
        self._llm: Any = None
        self._codec: HfCodec | None = None
        self._guides: VllmGuides | None = None
        self._capabilities: Capabilities | None = None

    @property
    def capabilities(self) -> Capabilities:
        return _started(self._capabilities)

    @property
    def codec(self) -> HfCodec:
        return _started(self._codec)

    @property
    def failure(self) -> str:
        return _ENDED if self._llm is not None and self._llm.errored else ""

    async def start(self, tell: Callable[[str], None]) -> None:
        if self._loading is not None or self._closed:
            raise FailedPrecondition("the engine was started before; make a new one")
        loop = asyncio.get_running_loop()
        self._loading = loop.run_in_executor(None, self._load, lambda text: call_on(loop, tell, text))
        await asyncio.shield(self._loading)  # a thread cannot be cancelled: `close` waits for it

    def check(self, guide: Guide) -> None:
        _started(self._guides).check(guide)

    def submit(self, request: GenerationRequest) -> Generation:
        if self._closed or self.failure:
            raise Unavailable(self.failure or "the engine was closed")
        most = room_for(request, self.capabilities, self.codec.vocabulary)
        params = self._params(request, most)
        stream = GenerationStream(request, self._cancel, self._paces.of(request))
        task = asyncio.get_running_loop().create_task(self._follow(stream, params))
        self._runs[stream] = task
        task.add_done_callback(lambda _: self._runs.pop(stream, None))  # also when it is cancelled before it begins
        return stream

    def load(self) -> EngineLoad:
        """vLLM tells its numbers after a step only, not after a cancellation: what runs is counted here."""
        count = sum(not stream.ended for stream in self._runs)
        running = min(self._statistics.running, count)
        return EngineLoad(running, count - running, self._statistics.cache_usage if count else 0.0)

    async def close(self) -> None:
        self._closed = True
        async with self._closing:
            if self._loading is not None:
                await asyncio.wait([self._loading])
                self._loading.exception()  # `start` told it, unless nobody waited any more
            for stream in self._runs:
                stream.fail(Unavailable("the engine was closed"))
            await cancel_and_wait(*self._runs.values())
            llm, self._llm, self._codec, self._guides = self._llm, None, None, None
            if llm is not None:
                await asyncio.to_thread(llm.shutdown)
            if self._watch is not None:
                await asyncio.to_thread(self._watch.close)

    # ------------------------------------------------------------------------------------------------ generations

    def _params(self, request: GenerationRequest, max_tokens: int) -> Any:
        package, guides = _started(self._package), _started(self._guides)
        sampling = request.sampling
        structured = guides.structured_outputs(sampling.guide) if sampling.guide is not None else None
        try:
            return sampling_params(package, sampling, max_tokens, structured)
        except package.refusals as error:
            raise InvalidArgument(f"the engine refuses the request: {one_line(error)}") from error

    async def _follow(self, stream: GenerationStream, params: Any) -> None:
        try:
            await self._take(stream, params)
        except MeshError as error:
            stream.fail(error)
        except Exception as error:  # noqa: BLE001 - whoever waits must hear of it
            stream.fail(self._mesh_error(error, stream.request))

    async def _take(self, stream: GenerationStream, params: Any) -> None:
        request = stream.request
        prompt = {"type": "token", "prompt_token_ids": list(request.prompt)}
        name = f"{request.id}-{next(self._numbers)}"
        outputs = self._llm.generate(prompt, params, name, priority=request.priority)
        finished = False
        async with contextlib.aclosing(outputs):
            async for output in outputs:  # ends by itself after the last one; to leave earlier would be a cancellation
                event = token_event(output, request.sampling)
                if event is not None:
                    finished = event.finish is not None
                    stream.put(event)
        if not finished:
            raise Internal("the engine ended a generation without saying why")

    def _cancel(self, stream: GenerationStream) -> None:
        if (task := self._runs.get(stream)) is not None:
            task.cancel()  # vLLM's `generate` hears of it, and takes the request out of the next step

    def _mesh_error(self, error: Exception, request: GenerationRequest) -> MeshError:
        package = _started(self._package)
        if isinstance(error, package.client_errors):
            return InvalidArgument(f"the engine refuses the request: {one_line(error)}")
        if isinstance(error, package.dead_error):
            return Internal(_ENDED)
        why = one_line(error.__cause__ or error)
        _log.error("a generation failed in vLLM", extra={"request": request.id, "error": why}, exc_info=error)
        return Internal(f"the engine failed: {why}")

    # ------------------------------------------------------------------------------------------------ loading

    def _load(self, tell: Callable[[str], None]) -> None:
        """In a thread: takes from seconds to minutes."""
        check_folder(self._model)
        tell("importing vLLM")
        package = self._package = import_vllm()
        tell(f"loading {self._model.name}")
        watch = self._watch = OrphanWatch()
        try:
            # Unlike a fixed one, this seed gives replicas different answers to the same request without a seed.
            arguments = package.AsyncEngineArgs(**self._options.engine_args(self._model, secrets.randbits(31)))
            with watch.marking():
                self._llm = llm = package.AsyncLLM.from_engine_args(arguments, stat_loggers=[self._statistics.logger])
        except Exception as error:
            raise FailedPrecondition(f"vLLM cannot run the model {self._model}: {one_line(error)}") from error
        config, tokenizer = llm.vllm_config, llm.get_tokenizer()
        codec = HfCodec(tokenizer, config.model_config.get_vocab_size())
        self._guides = VllmGuides(package, config, tokenizer)
        self._capabilities = Capabilities(
            engine=f"vllm {package.version}",
            context_tokens=config.model_config.max_model_len,
            logprobs=True,
            top_logprobs=self._options.max_logprobs,
            logit_bias=True,
            priorities=True,
            guides=frozenset(("json_object", "json_schema", "regex", "grammar")),
            chat=codec.has_chat_template,
            prefix_cache=bool(config.cache_config.enable_prefix_caching),
            cache_tokens=config.cache_config.kv_cache_size_tokens or 0,
            at_once=config.scheduler_config.max_num_seqs,
        )
        self._codec = codec
        tell(f"ready: {self._capabilities.context_tokens} tokens of context")


def _started(value: T | None) -> T:
    if value is None:
        raise FailedPrecondition("the engine was not started")
    return value
