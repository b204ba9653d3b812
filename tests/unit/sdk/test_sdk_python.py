"""Python deployments in a spec: what YAML and Python say of them, and what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from serving import Application, PythonDeployment, RuntimeEnv
from serving.errors import SpecError
from serving.sdk import Artifact, load_spec, parse_spec
from serving.validation import spec_problems

CODE = Artifact("file:///src.tar", "sha256:" + "a" * 64)
HEAD = """
name: app
deployments:
  - name: it
"""
FULL = f"""
    python:
      entry: pack.module:Outer.Class
      code: {{uri: "{CODE.uri}", digest: "{CODE.digest}"}}
      args: {{n: 3, share: 0.5, whole: 2.0, on: true, none: null, names: [a, "1"], deep: {{x: {{y: 1}}}}}}
      config: {{limit: 1}}
      model: other
      max_requests: 7
      max_message_bytes: 64Mi
      threads: 2
      runtime_env: {{pip: [humanize==4.9.0]}}
"""
ARGS = {"n": 3, "share": 0.5, "whole": 2.0, "on": True, "none": None, "names": ["a", "1"], "deep": {"x": {"y": 1}}}


def test_yaml_and_python_say_the_same() -> None:
    read = parse_spec(HEAD + FULL).to_spec()
    made = PythonDeployment(
        "it",
        "pack.module:Outer.Class",
        CODE,
        args=ARGS,
        config={"limit": 1},
        model="other",
        max_requests=7,
        max_message_bytes=64 * 2**20,
        threads=2,
        runtime_env=RuntimeEnv(["humanize==4.9.0"]),
    )
    assert read == Application("app", [made]).to_spec()
    python = read.deployments[0].python
    assert (python.code.digest, python.model, python.max_requests, python.threads) == (CODE.digest, "other", 7, 2)
    assert list(python.runtime_env.pip) == ["humanize==4.9.0"]


def test_arguments_keep_their_types() -> None:
    args = json.loads(parse_spec(HEAD + FULL).to_spec().deployments[0].python.args)
    assert args == ARGS
    assert [type(args[name]) for name in ("n", "share", "whole", "on")] == [int, float, float, bool]


def test_what_is_usual_is_not_stored() -> None:
    plain = Application("app", [PythonDeployment("it", "m:C")]).to_spec()
    assert plain == parse_spec(HEAD + "    python: {entry: 'm:C'}").to_spec()
    assert [field.name for field, _ in plain.deployments[0].python.ListFields()] == ["entry"]


def test_the_folder_is_relative_to_the_file_and_packed(tmp_path: Path) -> None:
    file = tmp_path / "app.yaml"
    file.write_text(HEAD + "    python: {entry: 'm:C', code: ./src}\n")
    with pytest.raises(SpecError, match=r"python.code: the folder .*/src does not exist"):
        load_spec(file)
    (tmp_path / "src").mkdir()
    app = load_spec(file)
    assert app.local_folders() == (tmp_path / "src",)
    packed = app.to_spec({tmp_path / "src": CODE}).deployments[0].python.code
    assert (packed.uri, packed.digest) == (CODE.uri, CODE.digest)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("{}", "python.entry: is missing"),
        ("{entry: scale}", "python.entry: `scale` is not `module:Class`"),
        ("{entry: 'm:C', code: ./src, codes: 1}", "python.codes: python has no such field; did you mean `code`"),
        ("{entry: 'm:C', args: [1]}", "python.args: expects a mapping"),
        ("{entry: 'm:C', args: {a-b: 1}}", "python.args: `a-b` is not a name of an argument"),
        ("{entry: 'm:C', args: {a: .nan}}", "python.args.a: expects a value that JSON can hold"),
        ("{entry: 'm:C', model: 'a b'}", "python.model: `a b` is not a name of a model"),
        ("{entry: 'm:C', max_requests: -1}", "python.max_requests: -1 is out of range"),
        ("{entry: 'm:C', threads: 5000}", "python.threads: 5000 is out of range: 0 to 1024"),
        ("{entry: 'm:C', runtime_env: {pip: humanize}}", "pip: expects a list, got the text `humanize`; write it as"),
        ("{entry: 'm:C', runtime_env: {pip: ['--pre']}}", "pip[0]: `--pre` is an option of pip"),
        ("{entry: 'm:C', runtime_env: {pip: ['./x']}}", "pip[0]: `./x` is a file, which nodes may not have"),
        ("{entry: 'm:C', runtime_env: {pip: ['a/x.whl']}}", "pip[0]: `a/x.whl` is a file, which nodes may not have"),
        ("{entry: 'm:C', runtime_env: {pip: ['x @ file:///x']}}", "pip[0]: `x @ file:///x` is a file, which nodes may"),
        ("{entry: 'm:C', runtime_env: {pip: [a, a]}}", "pip[1]: `a` stands there twice"),
        ("{entry: 'm:C', code: {uri: 'file:///a.tar'}}", "python.code.digest: is missing"),
    ],
)
def test_what_is_wrong_is_named_once(written: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_spec(f"{HEAD}    python: {written}\n")
    assert message in str(caught.value)
    assert "problems" not in str(caught.value)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": NaN}', '{"a": -Infinity}'])
def test_a_keeper_takes_no_text_that_readers_choke_on(text: str) -> None:
    spec = Application("app", [PythonDeployment("it", "m:C")]).to_spec()
    spec.deployments[0].python.config = text
    assert [problem.field for problem in spec_problems(spec)] == ["deployments[0].python.config"]


def test_a_keeper_checks_what_any_client_sends() -> None:
    spec = Application("app", [PythonDeployment("it", "m:C")]).to_spec()
    spec.deployments[0].python.args = "[1]"
    spec.deployments[0].python.config = "{"
    assert [problem.field for problem in spec_problems(spec)] == [
        "deployments[0].python.args",
        "deployments[0].python.config",
    ]
