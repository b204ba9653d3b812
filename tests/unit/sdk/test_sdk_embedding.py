"""Embedding models in a spec: what YAML and Python say of them, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving import Application, EmbeddingDeployment
from serving.errors import SpecError
from serving.sdk import Artifact, load_spec, parse_spec
from serving.validation import spec_problems

WEIGHTS = Artifact("file:///bert.tar", "sha256:" + "a" * 64)
EXACT = f'{{uri: "{WEIGHTS.uri}", digest: "{WEIGHTS.digest}"}}'
HEAD = """
name: app
deployments:
  - name: texts
"""
FULL = f"""
    embedding:
      weights: {EXACT}
      model: org/bert
      precision: f32
      max_tokens: 128
      too_long: cut
      threads: 2
      max_batch_inputs: 16
      max_batch_tokens: 1024
      max_requests: 32
      max_waiting_tokens: 4096
"""


def test_yaml_and_python_say_the_same() -> None:
    read = parse_spec(HEAD + FULL).to_spec()
    made = EmbeddingDeployment(
        "texts",
        WEIGHTS,
        model="org/bert",
        precision="f32",
        max_tokens=128,
        too_long="cut",
        threads=2,
        max_batch_inputs=16,
        max_batch_tokens=1024,
        max_requests=32,
        max_waiting_tokens=4096,
    )
    assert read == Application("app", [made]).to_spec()
    embedding = read.deployments[0].embedding
    assert (embedding.weights.digest, embedding.model, embedding.too_long) == (WEIGHTS.digest, "org/bert", "cut")
    assert len(embedding.ListFields()) == len(embedding.DESCRIPTOR.fields)


def test_without_options_it_is_the_packaged_model() -> None:
    plain = parse_spec(HEAD + "    embedding: {}\n")
    assert plain.to_spec() == Application("app", [EmbeddingDeployment("texts")]).to_spec()
    assert plain.to_spec().deployments[0].WhichOneof("kind") == "embedding"
    assert plain.to_spec().deployments[0].embedding.ListFields() == []
    assert plain.local_folders() == ()
    assert spec_problems(plain.to_spec()) == ()


def test_the_folder_is_relative_to_the_file_and_packed(tmp_path: Path) -> None:
    file = tmp_path / "app.yaml"
    file.write_text(HEAD + "    embedding: {weights: ./bert}\n")
    with pytest.raises(SpecError, match=r"embedding.weights: the folder .*/bert does not exist"):
        load_spec(file)
    (tmp_path / "bert").mkdir()
    assert load_spec(file).local_folders() == ((tmp_path / "bert").absolute(),)


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ('embedding: {weights: {uri: "file:///a.tar", digest: "sha256:1"}}', "64 hexadecimal digits"),
        ('embedding: {model: "a b"}', "embedding.model: .* is not a name of a model"),
        ("embedding: {precision: int4}", r"embedding.precision: `int4` is not known .*int8.*f32"),
        ("embedding: {too_long: split}", r"embedding.too_long: `split` is not known .*refuse.*cut"),
        ("embedding: {max_tokens: 2}", "embedding.max_tokens: 2 leaves no room"),
        ("embedding: {max_tokens: -1}", "embedding.max_tokens: -1 is out of range"),
        ("embedding: {threads: -1}", "embedding.threads"),
        ("embedding: {max_batch_inputs: -1}", "embedding.max_batch_inputs"),
        ("embedding: {max_batch_tokens: -1}", "embedding.max_batch_tokens"),
        ("embedding: {max_requests: -1}", "embedding.max_requests"),
        ("embedding: {max_waiting_tokens: -1}", "embedding.max_waiting_tokens"),
        ("embedding: {engine: openvino}", "engine"),
        ("embedding: {}\n    scheduling: {bundles: [{cpus: 1}]}", "scheduling.bundles"),
    ],
)
def test_what_is_refused(line: str, wrong: str) -> None:
    with pytest.raises(SpecError, match=wrong):
        parse_spec(HEAD + f"    {line}\n").to_spec()


def test_weights_must_be_exact_once_they_are_packed() -> None:
    spec = Application("app", [EmbeddingDeployment("texts", "./somewhere")]).to_spec()
    assert [problem.field for problem in spec_problems(spec)] == ["deployments[0].embedding.weights.digest"]


def test_grpc_proxies_reach_it() -> None:
    parse_spec(HEAD + "    embedding: {}\n  - {name: p, proxy: {}}\n").to_spec()


def test_traffic_is_split_over_it() -> None:
    split = "  - {name: other, embedding: {model: texts}}\ntraffic: [{split: {texts: 1, other: 1}}]\n"
    assert len(parse_spec(HEAD + "    embedding: {}\n" + split).to_spec().traffic[0].sides) == 2
    copies = split.replace("other: 1}}", "other: 0}, shadow: {to: other, percent: 1}}")
    with pytest.raises(SpecError, match=r"shadow: is not supported with `embedding` \(`other`\)"):
        parse_spec(HEAD + "    embedding: {}\n" + copies).to_spec()


def test_a_name_stands_for_one_kind_of_model() -> None:
    llm = f"  - {{name: chat, llm: {{weights: {EXACT}, model: texts}}}}\n"
    with pytest.raises(
        SpecError, match=r"deployments\[1\].llm.model: `texts` is .* of deployments\[0\], which is `emb"
    ):
        parse_spec(HEAD + "    embedding: {}\n" + llm).to_spec()
    same = "  - {name: more, embedding: {model: texts}}\n"
    parse_spec(HEAD + "    embedding: {}\n" + same).to_spec()
