"""What changes a server: its model repository, its trace settings, its log settings. In their order."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from google.protobuf.message import Message
from tritonclient.grpc import service_pb2 as pb

from tests.contract.corpus_infer import numbers
from tests.contract.exchange import Case, Step, call, infer, one
from tests.contract.models import SENT_MODEL

_TENSORS = '"input":[{"name":"INPUT0","data_type":"TYPE_FP32","dims":[-1]}],'
_TENSORS += '"output":[{"name":"OUTPUT0","data_type":"TYPE_FP32","dims":[-1]}]'
IDENTITY = f'{{"backend":"identity",{_TENSORS}}}'
PYTHON = f'{{"backend":"python",{_TENSORS}}}'


def _parameters(message: Message, values: Mapping[str, object]) -> Message:
    kinds = {bool: "bool_param", int: "int64_param", str: "string_param", bytes: "bytes_param"}
    for key, value in values.items():
        if value is None:
            message.parameters[key].SetInParent()  # type: ignore[attr-defined]
        else:
            setattr(message.parameters[key], kinds[type(value)], value)  # type: ignore[attr-defined]
    return message


def load(model: str, repository: str = "", **parameters: object) -> Step:
    request = pb.RepositoryModelLoadRequest(model_name=model, repository_name=repository)
    return call("RepositoryModelLoad", _parameters(request, parameters))


def unload(model: str, repository: str = "", **parameters: object) -> Step:
    request = pb.RepositoryModelUnloadRequest(model_name=model, repository_name=repository)
    return call("RepositoryModelUnload", _parameters(request, parameters))


def _state_of(*models: str) -> Step:
    """The repository's index, of these models."""

    def chosen(message: pb.RepositoryIndexResponse) -> pb.RepositoryIndexResponse:
        return pb.RepositoryIndexResponse(models=[model for model in message.models if model.name in models])

    return call("RepositoryIndex", pb.RepositoryIndexRequest(), view=chosen)


def _ready(model: str) -> Step:
    return call("ModelReady", pb.ModelReadyRequest(name=model))


SERVER_READY = call("ServerReady", pb.ServerReadyRequest())


def _config(model: str) -> Step:
    return call("ModelConfig", pb.ModelConfigRequest(name=model))


def _files(**files: bytes) -> dict[str, object]:
    return {f"file:{path}": content for path, content in files.items()}


def _repository() -> Iterator[Case]:
    use = infer(numbers("control", [1, 2]))
    yield one("load what is loaded", load("control"), use, _state_of("control"))
    yield one("load nothing", load(""), load("nope"), load("../control"), load("control/1"), load("a" * 300))
    yield one("unload", unload("control"), _state_of("control"), _ready("control"), use, SERVER_READY)
    yield one("unload what is not loaded", unload("control"), unload("nope"), unload(""))
    yield one("load again", load("control"), use, _state_of("control"), SERVER_READY)
    yield one("another repository", load("control", "here"), unload("control", "here"))
    for name, value in (
        ("config", b"{}"),
        ("config", 1),
        ("config", None),
        ("other", "x"),
        ("file:1/a", "x"),
        ("", True),
    ):
        yield one(f"load parameter {name} as {type(value).__name__}", load("control", **{name: value}), use)
    for value in ("true", 1, None):
        yield one(f"unload_dependents as {type(value).__name__}", unload("control", unload_dependents=value), use)
    yield one("unload with another parameter", unload("control", other=1), load("control"))


def _overrides() -> Iterator[Case]:
    use = infer(numbers("control", [1, 2]))
    changed = json.loads(IDENTITY) | {"max_batch_size": 0, "parameters": {"note": {"string_value": "sent"}}}
    yield one("load with a configuration", load("control", config=json.dumps(changed)), _config("control"), use)
    for name, config in {
        "no JSON": "{",
        "empty": "",
        "an array": "[]",
        "unknown field": '{"nope": 1}',
        "another name": '{"name": "other", "backend": "identity"}',
        "no such backend": '{"backend": "nope"}',
        "bad tensors": IDENTITY.replace("[-1]", "[-7]"),
        "a response cache that the server does not have": IDENTITY[:-1] + ',"response_cache":{"enable":true}}',
        "bad datatype": IDENTITY.replace("TYPE_FP32", "TYPE_NOPE"),
    }.items():
        yield one(
            f"configuration: {name}", load("control", config=config), use, _config("control"), _state_of("control")
        )
    yield one("the folder's own configuration again", load("control"), _config("control"))
    sent = {"config": PYTHON, **_files(**{"1/model.py": SENT_MODEL.encode()})}
    yield one("load with a file", load("control", **sent), use, _state_of("control"), load("control"), use)
    yield one("a file without a configuration", load("control", **_files(**{"1/model.py": b"x"})), use)
    yield one("a new model", load("control_sent", **sent), infer(numbers("control_sent", [1])), unload("control_sent"))
    broken = {"config": PYTHON, **_files(**{"1/model.py": b"raise ValueError('broken')"})}
    yield one(
        "a file that does not work",
        Step(load("control", **broken).method, load("control", **broken).requests, "code"),
        use,
    )
    for path in ("../x", "1/../../x", "/etc/x", "1/", ""):
        outside = {"config": IDENTITY, **_files(**{path: b"x"})}
        yield one(f"a file at {path!r}", load("control", **outside), load("control"), use)
    yield one(
        "another version by a file",
        load("control", config=IDENTITY, **_files(**{"5/model": b"x"})),
        use,
        _state_of("control"),
        load("control"),
    )


def _dependents() -> Iterator[Case]:
    chain, part = infer(numbers("control_chain", [1])), infer(numbers("control_part", [1]))
    states = _state_of("control_chain", "control_part")
    yield one("unload a part", unload("control_part"), states, chain, part, SERVER_READY, load("control_part"), states)
    yield one("unload a chain", unload("control_chain"), states, part, load("control_chain"), states, chain)
    whole = unload("control_chain", unload_dependents=True)
    yield one("unload a chain with its parts", whole, chain, part, states, SERVER_READY)
    yield one("load the chain and its parts", load("control_chain"), states, chain, part)
    yield one("unload a part with dependents", unload("control_part", unload_dependents=True), chain, part)
    yield one("everything as before", load("control_chain"), states, chain)


def trace(model: str = "", **settings: Sequence[str]) -> Step:
    request = pb.TraceSettingRequest(model_name=model)
    for name, values in settings.items():
        request.settings[name].SetInParent()
        request.settings[name].value.extend(values)

    def without_file(message: pb.TraceSettingResponse) -> pb.TraceSettingResponse:
        del message.settings["trace_file"]
        return message

    return call("TraceSetting", request, view=without_file)


def log(**settings: object) -> Step:
    request = pb.LogSettingsRequest()
    kinds = {bool: "bool_param", int: "uint32_param", str: "string_param"}
    for name, value in settings.items():
        if value is None:
            request.settings[name].SetInParent()
        else:
            setattr(request.settings[name], kinds[type(value)], value)
    return call("LogSettings", request)


def _server() -> Iterator[Case]:
    def offered(message: pb.ServerMetadataResponse) -> pb.ServerMetadataResponse:
        if "cuda_shared_memory" in message.extensions:  # theirs is announced where there is no GPU, too
            message.extensions.remove("cuda_shared_memory")
        return message

    yield one("server", call("ServerMetadata", pb.ServerMetadataRequest(), view=offered), SERVER_READY)
    for ready in (False, True):
        yield one(f"index, ready {ready}", call("RepositoryIndex", pb.RepositoryIndexRequest(ready=ready)))


def _traces() -> Iterator[Case]:
    yield one("trace settings", trace(), trace("control_traced"), trace("nope"))
    levels = (
        ["OFF"],
        ["TIMESTAMPS"],
        ["TIMESTAMPS", "TENSORS"],
        ["OFF", "TENSORS"],
        ["TENSORS", "OFF"],
        ["nope"],
        [""],
        [],
    )
    for level in levels:
        yield one(f"trace level {level}", trace("control_traced", trace_level=level), trace("control_traced"), trace())
    for name in ("trace_rate", "trace_count", "log_frequency"):
        for values in (
            ["5"],
            [" 6"],
            ["7x"],
            ["x"],
            [""],
            ["0"],
            ["-1"],
            ["-2"],
            ["99999999999"],
            ["2147483647"],
            ["1", "2"],
            [],
        ):
            yield one(f"{name} {values}", trace("control_traced", **{name: values}), trace("control_traced"))
    for name in ("trace_file", "trace_mode", "nope"):
        yield one(f"{name} of a client", trace(**{name: ["x"]}), trace(**{name: []}), trace())
    yield one(
        "models follow the server",
        trace(trace_rate=["50"]),
        trace("control_traced", trace_count=["7"]),
        trace(trace_rate=["60"]),
        trace("control_traced"),
        trace(),
    )
    yield one("an active rate of 0", trace(trace_level=["TIMESTAMPS"], trace_rate=["0"]), trace())
    yield one("an active count of 0", trace(trace_level=["TIMESTAMPS"], trace_count=["0"]), trace())
    off = trace(trace_level=[], trace_rate=[], trace_count=[], log_frequency=[])
    yield one(
        "traces as before",
        trace("control_traced", trace_level=[], trace_rate=[], trace_count=[], log_frequency=[]),
        trace("control_traced"),
        off,
    )


def _log() -> Iterator[Case]:
    yield one(
        "log format",
        log(log_format="default"),
        log(log_format="ISO8601"),
        log(log_format="x"),
        log(log_format="default"),
    )
    for name in ("log_file", "log_info", "log_warning", "log_error", "log_verbose_level", "log_format", "nope"):
        wrong: list[object] = [True, 1, "x", None]
        for value in wrong:
            if (name, type(value)) == ("log_verbose_level", int):
                continue  # would fill the log
            yield one(f"{name} as {type(value).__name__}", log(**{name: value}), log())
    yield one(
        "log off and on",
        log(log_info=True, log_error=False),
        log(log_info=False, log_error=True, log_warning=False),
        log(),
    )
    yield one(
        "log level and back", log(log_verbose_level=1), log(log_verbose_level=0), log(log_info=False, log_warning=True)
    )


def control_cases() -> Iterator[Case]:
    # Overrides come after what asks for readiness: tritonserver may say no for ever after them.
    for group in (_server, _repository, _dependents, _overrides, _traces, _log):
        yield from group()
