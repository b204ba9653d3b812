"""What makes the `llm` part of a spec valid, and what the kinds behind OpenAI's protocol have in common here. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from serving._proto import records_pb2 as pb
from serving.errors import InvalidArgument
from serving.hub_name import HubName, is_hub_name
from serving.llm.engine import OPENVINO, VLLM
from serving.llm.openvino_config import OpenVinoOptions
from serving.llm.vllm_config import VllmOptions
from serving.problems import MAX_TIMEOUT_S, Problem, check_number, check_whole, shown
from serving.routing.llm_routing import LLM_CHOICES, SESSION_KEYS
from serving.validation.python import MAX_REQUESTS, MODEL_NAME, json_object

ENGINES: Final = (OPENVINO, VLLM)
OPENAI_KINDS: Final = ("llm", "embedding")
MAX_TOKENS: Final = 1 << 30
MAX_ANSWER_WEIGHT: Final = 1000.0


def llm_problems(path: str, deployment: pb.DeploymentSpec) -> Iterator[Problem]:
    """Everything but an artifact, which is like that of other kinds. `path` is the deployment's."""
    llm = deployment.llm
    yield from model_name_problems(f"{path}.llm.model", llm.model)
    if llm.engine and llm.engine not in ENGINES:
        yield Problem(f"{path}.llm.engine", f"{shown(llm.engine)} is not known", allowed=ENGINES)
    else:
        yield from _options(f"{path}.llm.options", llm, deployment.resources.gpus)
    yield from check_whole(f"{path}.llm.max_requests", llm.max_requests, 0, MAX_REQUESTS, "; 0 is the default of 256")
    if is_hub_name(llm.weights.uri):
        try:
            HubName.parse(llm.weights.uri)
        except InvalidArgument as error:
            yield Problem(f"{path}.llm.weights", error.message)
    tokens = llm.max_waiting_tokens
    yield from check_whole(f"{path}.llm.max_waiting_tokens", tokens, 0, MAX_TOKENS, "; 0 is the default of 262144")
    yield from check_number(f"{path}.llm.max_wait", llm.max_wait_s, MAX_TIMEOUT_S, "seconds; 0 is the default of 60")
    yield from _routing(f"{path}.llm.routing", llm.routing)


def model_name_problems(path: str, model: str) -> Iterator[Problem]:
    """Of a name by which OpenAI's clients ask, such as `chat` or, as on the Hugging Face hub, `owner/chat`."""
    owner, slash, name = model.rpartition("/")
    if model and not (MODEL_NAME.fullmatch(name) and (not slash or MODEL_NAME.fullmatch(owner))):
        text = f"{shown(model)} is not a name of a model (letters, digits, `_ . + -`, and one `/` between)"
        yield Problem(path, text)


def openai_model_problems(spec: pb.ApplicationSpec) -> Iterator[Problem]:
    """A name stands for one kind of model: whoever asks for it gets any of its replicas."""
    first: dict[str, tuple[int, str]] = {}
    for index, deployment in enumerate(spec.deployments):
        kind = deployment.WhichOneof("kind")
        if kind not in OPENAI_KINDS:
            continue
        model = getattr(deployment, kind).model or deployment.name
        where, other = first.setdefault(model, (index, kind))
        if other != kind:
            text = f"{shown(model)} is the name of a model of deployments[{where}], which is `{other}`"
            yield Problem(f"deployments[{index}].{kind}.model", text)


def _routing(path: str, routing: pb.LlmRouting) -> Iterator[Problem]:
    if routing.choice and routing.choice not in LLM_CHOICES:
        yield Problem(f"{path}.choice", f"{shown(routing.choice)} is not known", allowed=LLM_CHOICES)
    for index, key in enumerate(routing.session_keys):
        if key not in SESSION_KEYS:
            yield Problem(f"{path}.session_keys[{index}]", f"{shown(key)} is not known", allowed=SESSION_KEYS)
    tokens = routing.overload_tokens
    yield from check_whole(f"{path}.overload_tokens", tokens, 0, MAX_TOKENS, "; 0 is the default of 8192")
    if not 0.0 <= routing.answer_weight <= MAX_ANSWER_WEIGHT:
        text = f"must be a number from 0 to {MAX_ANSWER_WEIGHT:g}, not {routing.answer_weight!r}"
        yield Problem(f"{path}.answer_weight", text)


def _options(path: str, llm: pb.LlmDeployment, gpus: float) -> Iterator[Problem]:
    options = json_object(llm.options)
    if options is None:
        yield Problem(path, "is not a JSON object")
        return
    try:
        if llm.engine != VLLM:
            OpenVinoOptions.of(options)
        elif (wanted := VllmOptions.of(options).tensor_parallel_size) > max(gpus, 1):
            yield Problem(
                f"{path}.tensor_parallel_size", f"{wanted} share the model, but resources.gpus gives a replica {gpus:g}"
            )
    except InvalidArgument as error:
        yield Problem(path, error.message)
