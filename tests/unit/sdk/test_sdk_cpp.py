"""C++ deployments in a spec: what YAML and Python say of them, and what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from serving import Application, CppDeployment
from serving._proto import records_pb2 as pb
from serving.errors import SpecError
from serving.master.order import goals
from serving.sdk import Artifact, load_spec, parse_spec
from serving.validation import spec_problems

CODE = Artifact("file:///lib.tar", "sha256:" + "a" * 64)
MODELS = Artifact("file:///models.tar", "sha256:" + "b" * 64)
HEAD = """
name: app
deployments:
  - name: it
"""
FULL = f"""
    cpp:
      library: lib/libit.so
      code: {{uri: "{CODE.uri}", digest: "{CODE.digest}"}}
      repository: {{uri: "{MODELS.uri}", digest: "{MODELS.digest}"}}
      args: {{n: 3, names: [a]}}
      config: {{limit: 1}}
      model: other
      max_requests: 7
      max_message_bytes: 64Mi
      threads: 2
      busy_poll_us: 200
"""


def test_yaml_and_python_say_the_same() -> None:
    read = parse_spec(HEAD + FULL).to_spec()
    made = CppDeployment(
        "it",
        "lib/libit.so",
        CODE,
        args={"n": 3, "names": ["a"]},
        config={"limit": 1},
        repository=MODELS,
        model="other",
        max_requests=7,
        max_message_bytes=64 * 2**20,
        threads=2,
        busy_poll_us=200,
    )
    assert read == Application("app", [made]).to_spec()
    cpp = read.deployments[0].cpp
    assert (cpp.library, cpp.code.digest, cpp.repository.digest) == ("lib/libit.so", CODE.digest, MODELS.digest)
    assert (cpp.model, cpp.max_requests, cpp.threads, cpp.max_message_bytes) == ("other", 7, 2, 64 << 20)
    assert cpp.busy_poll_us == 200
    assert json.loads(cpp.args) == {"n": 3, "names": ["a"]}


def test_a_library_may_be_installed_already() -> None:
    cpp = parse_spec(HEAD + "    cpp: {library: /opt/mine/libit.so}\n").to_spec().deployments[0].cpp

    assert not cpp.HasField("code")
    assert not cpp.HasField("repository")
    assert cpp.args == cpp.config == ""


@pytest.mark.parametrize(
    ("text", "field", "words"),
    [
        ("{library: ''}", "library", "is missing"),
        ("{library: libit.so}", "library", "must be an absolute path where there is no `code`"),
        ("{library: /lib/libit.so, code: ./x}", "library", "must be a path in `code`"),
        ("{library: ../libit.so, code: ./x}", "library", "must be a path in `code`"),
        ("{library: /l.so, threads: 5000}", "threads", "1024"),
        ("{library: /l.so, max_requests: -1}", "max_requests", "0"),
        ("{library: /l.so, busy_poll_us: 2000}", "busy_poll_us", "1000"),
        ("{library: /l.so, model: 'a b'}", "model", "is not a name of a model"),
        ("{library: /l.so, args: [1]}", "args", "expects a mapping"),
        ("{lib: /l.so}", "lib", "library"),
    ],
)
def test_mistakes_are_named(text: str, field: str, words: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_spec(HEAD + f"    cpp: {text}\n")
    assert f"cpp.{field}" in str(caught.value)
    assert words in str(caught.value)


def test_a_keeper_wants_digests_of_both_artifacts() -> None:
    spec = parse_spec(HEAD + FULL).to_spec()
    assert spec_problems(spec) == ()
    for field in ("code", "repository"):
        getattr(spec.deployments[0].cpp, field).digest = ""
    assert [problem.field for problem in spec_problems(spec)] == [
        "deployments[0].cpp.code.digest",
        "deployments[0].cpp.repository.digest",
    ]


def test_folders_are_packed_and_must_hold_the_library(tmp_path: Path) -> None:
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "librecommend.so").touch()
    (tmp_path / "models").mkdir()
    file = tmp_path / "app.yaml"
    file.write_text(HEAD + "    cpp: {library: librecommend.so, code: build, repository: models}\n")
    assert load_spec(file).local_folders() == (tmp_path / "models", tmp_path / "build")

    file.write_text(HEAD + "    cpp: {library: librecomend.so, code: build, repository: nowhere}\n")
    with pytest.raises(SpecError) as caught:
        load_spec(file)
    assert "has no file `librecomend.so`; build it first" in str(caught.value)
    assert "librecommend.so" in str(caught.value)
    assert "cpp.repository" in str(caught.value)


def order(spec: pb.ApplicationSpec, revision: int) -> pb.Placement:
    return pb.Placement(generation=1, stored=pb.StoredSpec(spec=spec, revision=revision))


@pytest.mark.parametrize(
    ("change", "in_place"), [("config: {limit: 2}", True), ("library: other.so", False), ("threads: 3", False)]
)
def test_only_a_change_of_config_is_made_in_place(change: str, in_place: bool) -> None:
    before = parse_spec(HEAD + FULL).to_spec()
    name = change.partition(":")[0]
    lines = [line for line in FULL.splitlines() if not line.strip().startswith(f"{name}:")]
    after = parse_spec(HEAD + "\n".join([*lines, f"      {change}"])).to_spec()
    (goal,) = goals(order(after, 2), [1], {1: before})

    assert goal.same == frozenset()
    assert goal.updatable == (frozenset({1}) if in_place else frozenset())
