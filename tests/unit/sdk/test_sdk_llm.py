"""Language models in a spec: what YAML and Python say of them, and what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from serving import Application, LlmDeployment
from serving.errors import SpecError
from serving.hub_name import HubName
from serving.routing.llm_routing import LlmRouting
from serving.sdk import Artifact, load_spec, parse_spec
from serving.validation import spec_problems

WEIGHTS = Artifact("file:///chat.tar", "sha256:" + "a" * 64)
HEAD = """
name: app
deployments:
  - name: chat
"""
FULL = f"""
    llm:
      weights: {{uri: "{WEIGHTS.uri}", digest: "{WEIGHTS.digest}"}}
      model: org/tiny-chat
      engine: openvino
      options: {{cache_mb: 64, prefix_cache: true}}
      max_requests: 32
      max_waiting_tokens: 4096
      routing: {{choice: least_tokens, session_keys: [user, x-mesh-session], overload_tokens: 500, answer_weight: 0}}
      max_wait: 90s
"""


def test_yaml_and_python_say_the_same() -> None:
    read = parse_spec(HEAD + FULL).to_spec()
    made = LlmDeployment(
        "chat",
        WEIGHTS,
        model="org/tiny-chat",
        engine="openvino",
        options={"cache_mb": 64, "prefix_cache": True},
        max_requests=32,
        max_waiting_tokens=4096,
        routing={
            "choice": "least_tokens",
            "session_keys": ["user", "x-mesh-session"],
            "overload_tokens": 500,
            "answer_weight": 0,
        },
        max_wait=90,
    )
    assert read == Application("app", [made]).to_spec()
    llm = read.deployments[0].llm
    assert json.loads(llm.options) == {"cache_mb": 64, "prefix_cache": True}
    assert LlmRouting.from_record(llm.routing) == LlmRouting("least_tokens", ("user", "x-mesh-session"), 500, 0.0)
    assert (llm.weights.digest, llm.max_requests, llm.max_waiting_tokens) == (WEIGHTS.digest, 32, 4096)
    assert llm.max_wait_s == 90


def test_what_is_usual_is_not_stored() -> None:
    plain = Application("app", [LlmDeployment("chat", WEIGHTS)]).to_spec()
    assert [field.name for field, _ in plain.deployments[0].llm.ListFields()] == ["weights"]
    empty = Application(
        "app", [LlmDeployment("chat", WEIGHTS, routing={"session_keys": [], "overload_tokens": 0})]
    ).to_spec()
    assert empty == plain


def test_the_folder_is_relative_to_the_file_and_packed(tmp_path: Path) -> None:
    file = tmp_path / "app.yaml"
    file.write_text(HEAD + "    llm: {weights: ./model}\n")
    with pytest.raises(SpecError, match=r"llm.weights: the folder .*/model does not exist"):
        load_spec(file)
    (tmp_path / "model").mkdir()
    assert load_spec(file).local_folders() == ((tmp_path / "model").absolute(),)


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("llm: {}", "llm.weights"),
        (f'llm: {{weights: {{uri: "{WEIGHTS.uri}", digest: "sha256:1"}}}}', "64 hexadecimal digits"),
        ('llm: {weights: ./m, model: "a b"}', "is not a name of a model"),
        ("llm: {weights: ./m, model: a//b}", "is not a name of a model"),
        ("llm: {weights: ./m, model: default/app/chat}", "is not a name of a model"),
        ("llm: {weights: ./m, engine: llamacpp}", r"llm.engine: `llamacpp` is not known .*openvino"),
        ("llm: {weights: ./m, engine: vllm, options: {cache_mb: 1}}", r"llm.options: .*no setting `cache_mb`"),
        (
            "llm: {weights: ./m, engine: vllm, options: {tensor_parallel_size: 2}}",
            "llm.options.tensor_parallel_size: 2 share the model, but resources.gpus gives a replica 0",
        ),
        ("llm: {weights: ./m, options: {cache: 1}}", r"llm.options: .*no setting `cache`"),
        ("llm: {weights: ./m, options: 3}", "llm.options"),
        ("llm: {weights: 'hub://me/chat'}", "llm.weights: hub://me/chat does not say which files it means: end it"),
        ("llm: {weights: 'hub://me/chat@main'}", "llm.weights: 'hub://me/chat@main' is not a model's name on the hub"),
        ("llm: {weights: 'hub://me/../x@" + "a" * 40 + "'}", "is not a model's name on the hub"),
        ("llm: {weights: ./m, max_requests: -1}", "llm.max_requests"),
        ("llm: {weights: ./m, max_waiting_tokens: -1}", "llm.max_waiting_tokens"),
        ("llm: {weights: ./m, routing: {choice: nearest}}", "routing.choice.*prefix, least_tokens"),
        ("llm: {weights: ./m, routing: {session_keys: user}}", "routing.session_keys"),
        ("llm: {weights: ./m, routing: {session_keys: [cookie]}}", r"routing.session_keys\[0\]"),
        ("llm: {weights: ./m, routing: {overload_tokens: -1}}", "routing.overload_tokens"),
        ("llm: {weights: ./m, routing: {answer_weight: -1}}", "routing.answer_weight"),
        ("llm: {weights: ./m, routing: {polity: prefix}}", "routing.*polity"),
        ("llm: {weights: ./m, max_wait: -1s}", "llm.max_wait"),
        ("llm: {weights: ./m, max_wait: 1000000000}", r"llm.max_wait: .* out of range"),
    ],
)
def test_what_is_refused(line: str, wrong: str) -> None:
    with pytest.raises(SpecError, match=wrong):
        parse_spec(HEAD + f"    {line}\n").to_spec()


def test_weights_must_be_exact_once_they_are_packed() -> None:
    spec = Application("app", [LlmDeployment("chat", "./somewhere")]).to_spec()
    assert [problem.field for problem in spec_problems(spec)] == ["deployments[0].llm.weights.digest"]


BOTH = f"""
name: app
deployments:
  - name: old
    llm: {{weights: {{uri: "{WEIGHTS.uri}", digest: "{WEIGHTS.digest}"}}, model: chat}}
    rollout: {{canary: {{steps: [{{weight: 5, duration: 1m}}], match: [{{header: x-canary, value: "1"}}]}}}}
  - name: new
    llm: {{weights: {{uri: "{WEIGHTS.uri}", digest: "{WEIGHTS.digest}"}}, model: chat}}
traffic:
"""


def test_requests_are_split_and_canaries_are_tried() -> None:
    spec = parse_spec(f"{BOTH}  - {{model: chat, split: {{old: 9, new: 1}}, key: user}}\n").to_spec()
    assert [(side.deployment, side.weight) for side in spec.traffic[0].sides] == [("old", 9), ("new", 1)]
    assert spec.deployments[0].rollout.canary.steps[0].weight == 5


def test_copies_of_requests_are_refused() -> None:
    with pytest.raises(
        SpecError, match=r"traffic\[0\].shadow: is not supported with `llm` \(`new`\): gateways send no"
    ):
        parse_spec(f"{BOTH}  - {{model: chat, split: {{old: 1}}, shadow: {{to: new, percent: 5}}}}\n").to_spec()


def test_grpc_proxies_do_not_reach_it() -> None:
    both = (
        HEAD
        + f'    llm: {{weights: {{uri: "{WEIGHTS.uri}", digest: "{WEIGHTS.digest}"}}}}\n  - {{name: p, proxy: {{}}}}\n'
    )
    with pytest.raises(SpecError, match="gRPC proxies do not reach `serve` and `llm`"):
        parse_spec(both).to_spec()


def test_a_name_on_the_hub_stays_one() -> None:
    for file in ("", "/quantized/q4.gguf"):
        uri = f"hub://me/chat{file}@{'a' * 40}"
        read = parse_spec(HEAD + f"    llm: {{weights: '{uri}', engine: vllm}}\n")
        assert read.local_folders() == ()
        spec = read.to_spec()
        assert (spec.deployments[0].llm.weights.uri, spec.deployments[0].llm.weights.digest) == (uri, "")
        assert spec_problems(spec) == ()
        name = HubName.parse(uri)
        assert (name.repository, name.file, name.commit) == ("me/chat", file.removeprefix("/"), "a" * 40)
