"""An application's YAML file → `Application`. Everything wrong is answered at once, each with its line."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from serving.hub_name import is_hub_name
from serving.problems import Problem
from serving.sdk._artifacts import Artifact, local_path
from serving.sdk._deployments import (
    BatchDeployment,
    BrokerDeployment,
    CppDeployment,
    Deployment,
    EmbeddingDeployment,
    LlmDeployment,
    ProxyDeployment,
    PythonDeployment,
    SemanticCacheDeployment,
    ServeDeployment,
    TritonDeployment,
    folders_of,
)
from serving.sdk._python_options import RuntimeEnv
from serving.sdk._resource_options import Replicas, Resources
from serving.sdk._rollout_options import Rollout
from serving.sdk._scaling_options import autoscaling_of
from serving.sdk._scheduling_options import SlowReplicas, scheduling_of
from serving.sdk._table import Reading
from serving.sdk._traffic_options import canary_of, traffic_of
from serving.sdk._triton_options import TRITON
from serving.sdk._yaml import parse_document, read_text
from serving.sdk.spec import TABLE, Application, Placement
from serving.spelling import closest_match
from serving.validation import KINDS, spec_problems

_COMPARED: Final = {"max": ("min", "max")}  # of replicas: what is said of the first is judged by all of them
_WHOLE: Final = frozenset({"repository", "code"})  # an artifact without its url is none at all


def load_spec(path: str | os.PathLike[str]) -> Application:
    """Reads an application's YAML file; relative paths in it are relative to its folder.

    Raises `SpecError` with file, line, field, allowed values and closest match; also when a local folder is not there.
    """
    file = Path(path)
    return _parse(read_text(file), str(path), local_path(file).parent, _folder_problems)


def _folder_problems(application: Application) -> Iterator[Problem]:
    """Repositories that are no folders here, and models that are not in theirs."""
    for index, deployment in enumerate(application.deployments):
        path = f"deployments[{index}]"
        for field, folder in folders_of(deployment):
            if not Path(folder).is_dir():
                yield Problem(f"{path}.{field}", f"the folder {folder} does not exist")
            elif isinstance(deployment, TritonDeployment) and field == "triton.repository":
                yield from _model_problems(f"{path}.triton", Path(folder), deployment.models)
            elif isinstance(deployment, CppDeployment) and field == "cpp.code":
                yield from _library_problems(f"{path}.cpp", Path(folder), deployment.library)


def _model_problems(path: str, folder: Path, models: Iterable[str]) -> Iterator[Problem]:
    known = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    for number, name in enumerate(models):
        if name not in known:
            text = f"the repository has no model `{name}`"
            yield Problem(f"{path}.models[{number}]", text, allowed=tuple(known), closest=closest_match(name, known))


def _library_problems(path: str, folder: Path, library: str) -> Iterator[Problem]:
    if library and not (folder / library).is_file():
        known = sorted(str(file.relative_to(folder)) for file in folder.rglob("*.so"))
        text = f"the folder {folder} has no file `{library}`; build it first"
        yield Problem(f"{path}.library", text, allowed=tuple(known), closest=closest_match(library, known))


def parse_spec(text: str, *, source: str = "spec", base_dir: str | os.PathLike[str] = ".") -> Application:
    """Reads an application's YAML text without touching the disk; relative paths are relative to `base_dir`.

    `source` is what errors call the text. Raises `SpecError`.
    """
    return _parse(text, source, local_path(base_dir))


def _parse(
    text: str, source: str, folder: Path, look: Callable[[Application], Iterable[Problem]] | None = None
) -> Application:
    """`look` finds more problems. All are answered at once, but for those that only follow from another one."""
    document = parse_document(text, source)
    reading = Reading(raw=document.raw)
    values = TABLE.read(document.value, reading.root())
    application = _application(values, folder)
    found = [*spec_problems(application.unchecked_spec(), packed=False), *(look(application) if look else ())]
    wrong = [place for problem in reading.problems for place in _places(problem, document.lines)]
    problems = [*reading.problems, *(problem for problem in found if not _follows(problem.field, wrong))]
    if problems:
        raise document.error(problems)
    return application


def _places(problem: Problem, written: Collection[str]) -> Iterator[str]:
    """The field that could not be read, and the one that was meant by a misspelt name, unless that stands there too."""
    yield problem.field
    if problem.closest:
        parent = problem.field.rpartition(".")[0]
        meant = f"{parent}.{problem.closest}" if parent else problem.closest
        if meant not in written:
            yield from [meant] if problem.closest not in KINDS else [f"{parent}.{kind}" for kind in KINDS]


def _follows(path: str, wrong: Iterable[str]) -> bool:
    """True where something at this path or around it could not be read, or what it is judged by."""
    parent, _, name = path.rpartition(".")
    judged_by = {f"{parent}.{other}" for other in _COMPARED.get(name, ())} if parent.endswith("replicas") else set()
    for place in wrong:
        if place == path or _inside(path, place) or place in judged_by:
            return True
        if name in _WHOLE and _inside(place, path):
            return True
    return not path


def _inside(path: str, outer: str) -> bool:
    return path.startswith((f"{outer}.", f"{outer}["))


def _application(values: Mapping[str, Any], folder: Path) -> Application:
    return Application(
        name=values["name"],
        namespace=values["namespace"],
        labels=values["labels"],
        placement=Placement(**values["placement"]),
        deployments=tuple(_deployment(entry, folder) for entry in values["deployments"]),
        on_failed_rollout=values["on_failed_rollout"],
        traffic=tuple(traffic_of(entry) for entry in values["traffic"]),
    )


def _deployment(values: Mapping[str, Any], folder: Path) -> Deployment:
    replicas = values["replicas"]
    shared = {
        "name": values["name"],
        "resources": Resources(**values["resources"]),
        "replicas": Replicas(replicas) if isinstance(replicas, int) else Replicas(**replicas),
        "rollout": Rollout(**{**values["rollout"], "canary": canary_of(values["rollout"]["canary"])}),
        "autoscaling": autoscaling_of(values["autoscaling"], _policy_code(values["autoscaling"], folder)),
        "scheduling": scheduling_of(values["scheduling"]),
        "replace_slow": SlowReplicas(**values["replace_slow"]),
        **{name: values[name] for name in ("env", "max_restarts", "start_timeout", "drain_timeout", "dispatch")},
    }
    if values["proxy"] is not None:
        return ProxyDeployment(**shared, **values["proxy"])
    if values["python"] is not None:
        python = dict(values["python"])
        python["code"] = _repository(python["code"], folder) or None
        python["runtime_env"] = RuntimeEnv(**python["runtime_env"])
        return PythonDeployment(**shared, **python)
    if values["serve"] is not None:
        served = dict(values["serve"])
        served["code"] = _repository(served["code"], folder) or None
        served["runtime_env"] = RuntimeEnv(**served["runtime_env"])
        return ServeDeployment(**shared, **served)
    if values["llm"] is not None:
        weights = values["llm"]["weights"]
        if not is_hub_name(weights):
            weights = _repository(weights, folder)
        return LlmDeployment(**shared, **{**values["llm"], "weights": weights})
    if values["embedding"] is not None:
        weights = _repository(values["embedding"]["weights"], folder) or None
        return EmbeddingDeployment(**shared, **{**values["embedding"], "weights": weights})
    if values["semantic_cache"] is not None:
        return SemanticCacheDeployment(**shared, **values["semantic_cache"])
    if values["broker"] is not None:
        return BrokerDeployment(**shared, **values["broker"])
    if values["batch"] is not None:
        return BatchDeployment(**shared, **values["batch"])
    if values["cpp"] is not None:
        folders = {name: _repository(values["cpp"][name], folder) or None for name in ("code", "repository")}
        return CppDeployment(**shared, **{**values["cpp"], **folders})
    triton = dict(values["triton"] or TRITON.defaults())
    triton["repository"] = _repository(triton["repository"], folder)
    return TritonDeployment(**shared, **triton)


def _policy_code(values: Mapping[str, Any] | None, folder: Path) -> str | Artifact | None:
    policy = values["policy"] if values is not None else None
    return _repository(policy["code"], folder) or None if policy is not None else None


def _repository(value: str | Mapping[str, Any] | None, folder: Path) -> str | Artifact:
    if isinstance(value, Mapping):
        return Artifact(**value)
    return str(local_path(folder / Path(value).expanduser())) if value else ""
