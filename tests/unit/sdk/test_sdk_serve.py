"""Deployments of Ray Serve in a spec: what YAML and Python say of them, and what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from serving import Application, RuntimeEnv, ServeDeployment
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
    serve:
      import_path: pack.module:build
      code: {{uri: "{CODE.uri}", digest: "{CODE.digest}"}}
      args: {{n: 3, names: [a, "1"]}}
      runtime_env: {{pip: [humanize==4.9.0]}}
      grpc_servicer_functions: [shop_pb2_grpc.add_Shop_to_server]
"""
MINIMAL = '    serve: {import_path: "m:app"}\n'


def test_yaml_and_python_say_the_same() -> None:
    read = parse_spec(HEAD + FULL).to_spec()
    made = ServeDeployment(
        "it",
        "pack.module:build",
        CODE,
        args={"n": 3, "names": ["a", "1"]},
        runtime_env=RuntimeEnv(["humanize==4.9.0"]),
        grpc_servicer_functions=("shop_pb2_grpc.add_Shop_to_server",),
    )
    assert read == Application("app", [made]).to_spec()
    serve = read.deployments[0].serve
    assert (serve.code.digest, json.loads(serve.args)) == (CODE.digest, {"n": 3, "names": ["a", "1"]})
    assert list(serve.runtime_env.pip) == ["humanize==4.9.0"]


def test_what_is_usual_is_not_stored() -> None:
    plain = Application("app", [ServeDeployment("it", "m:app")]).to_spec()
    assert plain == parse_spec(HEAD + MINIMAL).to_spec()
    assert [field.name for field, _ in plain.deployments[0].serve.ListFields()] == ["import_path"]


def test_the_folder_is_relative_to_the_file_and_packed(tmp_path: Path) -> None:
    file = tmp_path / "app.yaml"
    file.write_text(HEAD + '    serve: {import_path: "m:app", code: ./src}\n')
    with pytest.raises(SpecError, match=r"serve.code: the folder .*/src does not exist"):
        load_spec(file)
    (tmp_path / "src").mkdir()
    app = load_spec(file)
    assert app.local_folders() == (tmp_path / "src",)
    assert app.to_spec({tmp_path / "src": CODE}).deployments[0].serve.code.digest == CODE.digest


@pytest.mark.parametrize(
    ("more", "field", "told"),
    [
        ("    serve: {import_path: app}", "serve.import_path", "`app` is not `module:app`"),
        ("    serve: {import_path: 'm:a', grpc_servicer_functions: [f]}", "functions[0]", "is not `module.add_"),
        ("    serve: {import_path: 'm:a', runtime_env: {pip: [./x]}}", "pip[0]", "is a file"),
        ("    serve: {import_path: 'm:a', route_prefix: /x}", "serve.route_prefix", "serve has no such field"),
        (MINIMAL + "    replicas: 2", "replicas", "of `serve` is 1"),
        (MINIMAL + "    replicas: {min: 1, max: 2}\n    autoscaling: {target_ongoing: 1}", "autoscaling", "Ray Serve"),
        (MINIMAL + "    rollout: {canary: {steps: [{weight: 5, duration: 1s}]}}", "canary", "not supported with"),
        (MINIMAL + "    scheduling: {strategy: spread}", "scheduling", "not supported with `serve`"),
        (MINIMAL + "    python: {entry: 'm:C'}", "", "python"),
    ],
)
def test_what_is_wrong_is_said(more: str, field: str, told: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_spec(HEAD + more)
    assert field in str(caught.value)
    assert told in str(caught.value)


def test_traffic_and_proxies_do_not_reach_it() -> None:
    other = "  - name: other\n    python: {entry: 'm:C'}\n"
    split = "traffic: [{name: t, split: {it: 1, other: 1}}]\n"
    with pytest.raises(SpecError, match="`it` is not a deployment of this application that computes"):
        parse_spec(HEAD + MINIMAL + other + split)
    with pytest.raises(SpecError, match="proxies do not reach `serve` and `llm`"):
        parse_spec(HEAD + MINIMAL + "  - name: grpc\n    proxy: {}\n")


def test_the_keeper_checks_it_too() -> None:
    spec = parse_spec(HEAD + MINIMAL).to_spec()
    assert spec_problems(spec) == ()
    spec.deployments[0].serve.args = "[1]"
    spec.deployments[0].serve.import_path = ""
    assert [problem.field for problem in spec_problems(spec)] == [
        "deployments[0].serve.import_path",
        "deployments[0].serve.args",
    ]
