"""The engine over OpenVINO GenAI's continuous batching: GGUF files and OpenVINO IR, on CPUs and Intel GPUs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from serving.errors import FailedPrecondition, Unavailable
from serving.llm.engine import Capabilities, EngineLoad, Generation, GenerationRequest, Guide, TokenEvent
from serving.llm.generation_stream import GenerationStream, Paces, call_on
from serving.llm.guides import GuideRefused, KnownGuides, check_size
from serving.llm.openvino_codec import OpenVinoCodec
from serving.llm.openvino_config import OpenVinoOptions, find_model
from serving.llm.openvino_guide import check_guide
from serving.llm.openvino_loop import EngineLoop, News
from serving.llm.openvino_native import import_genai, load_native
from serving.llm.openvino_pipeline import Pipeline
from serving.llm.requests import room_for
from serving.llm.yielding import YieldingRoom


class OpenVinoEngine:
    """An `Engine`. How many may wait is its user's business: what is submitted waits here until there is a place."""

    def __init__(self, model: Path, options: Mapping[str, Any] | None = None) -> None:
        """`model`: a folder or a .gguf file; `options`: those of `OpenVinoOptions`, else `InvalidArgument`."""
        self._model = model
        self._options = OpenVinoOptions.of(options or {})
        self._known = KnownGuides()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._paces = Paces()
        self._engine_loop: EngineLoop | None = None
        self._capabilities: Capabilities | None = None
        self._codec: OpenVinoCodec | None = None
        self._vocabulary = 0
        self._native: Any = None

    @property
    def capabilities(self) -> Capabilities:
        if self._capabilities is None:
            raise FailedPrecondition("the engine was not started")
        return self._capabilities

    @property
    def codec(self) -> OpenVinoCodec:
        if self._codec is None:
            raise FailedPrecondition("the engine was not started")
        return self._codec

    @property
    def failure(self) -> str:
        return self._engine_loop.failure if self._engine_loop else ""

    async def start(self, tell: Callable[[str], None]) -> None:
        if self._thread is not None or self._closed:
            raise FailedPrecondition("the engine was started before; make a new one")
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        self._thread = threading.Thread(target=self._run, args=(loop, ready, tell), name="engine", daemon=True)
        self._thread.start()
        await ready

    def check(self, guide: Guide) -> None:
        self._refuse(guide)
        if not self._known.is_proven(guide):
            check_guide(guide, self._native)

    def submit(self, request: GenerationRequest) -> Generation:
        engine_loop = self._engine_loop
        if self._closed or self.failure:
            raise Unavailable(self.failure or "the engine was closed")
        if engine_loop is None:
            raise FailedPrecondition("the engine was not started")
        max_tokens = room_for(request, self.capabilities, self._vocabulary)
        if request.sampling.guide is not None:
            self._refuse(request.sampling.guide)
        stream = GenerationStream(request, engine_loop.cancel, self._paces.of(request))
        engine_loop.submit(stream, max_tokens)
        return stream

    def load(self) -> EngineLoad:
        return self._engine_loop.load() if self._engine_loop else EngineLoad()

    async def close(self) -> None:
        self._closed = True
        if self._engine_loop is not None:
            self._engine_loop.close()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
        self._codec = None  # the tokenizer keeps parts of the model

    def _refuse(self, guide: Guide) -> None:
        """What would harm the process, or did harm a step: also of who did not ask `check`."""
        check_size(guide)
        if known := self._known.refusal(guide):
            raise GuideRefused(known)

    def _run(self, loop: asyncio.AbstractEventLoop, ready: asyncio.Future[None], tell: Callable[[str], None]) -> None:
        """The engine's thread."""
        try:
            engine_loop = self._loaded(loop, lambda text: call_on(loop, tell, text))
        except Exception as error:  # noqa: BLE001 - handed over to `start`
            call_on(loop, _set, ready, error)
            return
        self._engine_loop = engine_loop
        if self._closed:
            engine_loop.close()
        call_on(loop, _set, ready, None)
        engine_loop.run()

    def _loaded(self, loop: asyncio.AbstractEventLoop, tell: Callable[[str], None]) -> EngineLoop:
        genai = import_genai()
        files = find_model(self._model, self._options)
        tell(f"loading {files.path.name}")
        self._native, why = load_native(genai)
        if why:
            tell(f"health checks and other answers wait for each step of the model: {why}")
        pipeline = Pipeline(genai, self._native, files, self._options)
        wanted = self._options.context_tokens or files.context_tokens
        if not wanted:
            raise FailedPrecondition(f"{files.path} does not say how long its context is: set context_tokens")
        context = min(wanted, pipeline.cache_tokens)
        if context < wanted:
            tell(f"cache_mb: {self._options.cache_mb} MiB hold {context} tokens, less than the context of {wanted}")
        self._codec = OpenVinoCodec(pipeline.tokenizer)
        self._vocabulary = self._codec.vocabulary
        self._capabilities = Capabilities(
            engine=f"openvino {genai.__version__.split('-')[0]}",
            context_tokens=context,
            logprobs=True,
            priorities=True,
            guides=frozenset(("json_object", "json_schema", "regex", "grammar")),
            chat=self._codec.has_chat_template,
            prefix_cache=self._options.prefix_cache,
            cache_tokens=pipeline.cache_tokens,
            at_once=self._options.max_running,
            resumes=True,
        )
        tell(f"ready: {context} tokens of context, a cache for {pipeline.cache_tokens}")
        room = YieldingRoom(self._options.yielding(), self._options.max_running)
        return EngineLoop(pipeline, self._known, room, lambda news: call_on(loop, _deliver, tuple(news)))


def _deliver(news: Sequence[News]) -> None:
    for stream, what in news:
        if isinstance(what, TokenEvent):
            stream.put(what)
        else:
            stream.fail(what)


def _set(ready: asyncio.Future[None], error: Exception | None) -> None:
    if ready.done():
        return
    if error is None:
        ready.set_result(None)
    else:
        ready.set_exception(error)
