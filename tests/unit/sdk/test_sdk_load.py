"""YAML files: what is read, and the line, field, allowed values and closest match of everything wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import SpecError
from serving.sdk import load_spec, parse_spec


def wrong(text: str) -> SpecError:
    with pytest.raises(SpecError) as caught:
        parse_spec(text, source="app.yaml", base_dir="/srv")
    return caught.value


MINIMAL = """\
name: digits
deployments:
  - name: digits
    triton:
      repository: ./models
"""


def test_minimal() -> None:
    app = parse_spec(MINIMAL, base_dir="/srv/app")
    assert app.to_spec().deployments[0].triton.repository.uri == "file:///srv/app/models"
    assert app.namespace == "default"


def test_json_is_yaml() -> None:
    text = '{"name": "digits", "deployments": [{"name": "d", "triton": {"repository": "/m"}}]}'
    assert parse_spec(text).name == "digits"


@pytest.mark.parametrize("replicas", ["2", "{min: 2}", "{min: 2, max: 2}"])
def test_forms_of_replicas(replicas: str) -> None:
    spec = parse_spec(MINIMAL + f"    replicas: {replicas}\n").to_spec()
    assert (spec.deployments[0].replicas.min, spec.deployments[0].replicas.max) == (2, 2)


def test_artifact_instead_of_folder() -> None:
    digest = "sha256:" + "0" * 64
    text = MINIMAL.replace("./models", f"{{uri: s3://bucket/models.tar, digest: '{digest}'}}")
    repository = parse_spec(text).to_spec().deployments[0].triton.repository
    assert (repository.uri, repository.digest) == ("s3://bucket/models.tar", digest)
    assert parse_spec(text).local_folders() == ()


def test_words_of_maps_are_what_was_written() -> None:
    text = MINIMAL + "    env: {A: 1, B: 0777, C: yes, D: 1.50, E: 'x', F: 1e3, G: 2020-01-01, H: true}\n"
    env = dict(parse_spec(text).to_spec().deployments[0].env)
    assert env == {
        "A": "1",
        "B": "0777",
        "C": "yes",
        "D": "1.50",
        "E": "x",
        "F": "1e3",
        "G": "2020-01-01",
        "H": "true",
    }


def test_anchors_and_merges() -> None:
    text = """\
name: two
deployments:
  - &first
    name: a
    triton: {repository: /m}
    env: {A: x}
  - <<: *first
    name: b
    replicas: 3
"""
    spec = parse_spec(text).to_spec()
    assert [(d.name, d.replicas.min, d.env["A"]) for d in spec.deployments] == [("a", 1, "x"), ("b", 3, "x")]
    error = wrong(text.replace("name: b", "name: B"))
    assert (error.line, error.field) == (8, "deployments[1].name")


@pytest.mark.parametrize(
    ("old", "new", "line", "field", "says"),
    [
        ("    triton:", "    tritn:", 4, "deployments[0].tritn", "did you mean `triton`?"),
        ("repository", "repo", 5, "deployments[0].triton.repo", "allowed: repository, models, backends"),
        ("name: digits\ndepl", "nam: digits\ndepl", 1, "nam", "did you mean `name`?"),
        ("name: digits\ndepl", "name: Digits\ndepl", 1, "name", "did you mean `digits`?"),
        ("name: digits\ndepl", "name: no\ndepl", 1, "name", 'write it in quotes: "no"'),
        ("name: digits\ndepl", "name: 123\ndepl", 1, "name", "got the number 123"),
        ("name: digits\ndepl", "name:\ndepl", 1, "name", "has no value"),
        ("name: digits\ndepl", "name: [a]\ndepl", 1, "name", "got a list"),
        ("  - name: digits\n", "  - name: digits\n    name: x\n", 4, "deployments[0].name", "first in line 3"),
        ("./models", "", 5, "deployments[0].triton.repository", "has no value"),
        ("./models", "5", 5, "deployments[0].triton.repository", "got the number 5"),
        ("./models", "./m\n      models: digits", 6, "deployments[0].triton.models", "write it as [digits]"),
        ("./models", "./m\n      event_loops: x", 6, "deployments[0].triton.event_loops", "whole number"),
        ("./models", "./m\n      event_loops: 999", 6, "deployments[0].triton.event_loops", "0 to 256"),
        ("./models", "{uri: s3://x}", 5, "deployments[0].triton.repository.digest", "is missing"),
        ("./models", "./m\n    resources: {memory: 5x}", 6, "deployments[0].resources.memory", "such as 512Mi"),
        ("./models", "./m\n    resources: 5", 6, "deployments[0].resources", "allowed: cpus, gpus"),
        ("./models", "./m\n    resources:\n      cpus: -1", 7, "deployments[0].resources.cpus", "out of range"),
        ("./models", "./m\n    replicas: {mim: 2}", 6, "deployments[0].replicas.mim", "did you mean `min`?"),
        ("./models", "./m\n    start_timeout: 5 days", 6, "deployments[0].start_timeout", "1m30s"),
        ("./models", "./m\n    env: [A]", 6, "deployments[0].env", "expects a mapping"),
        ("./models", "./m\n    env: {A: }", 6, "deployments[0].env.A", '"" is the empty text'),
        ("./models", "./m\nlabels: {a: [1]}", 6, "labels.a", "got a list"),
        ("./models", "./m\nplacement: {cluster: [a]}", 6, "placement.cluster", "did you mean `clusters`?"),
    ],
)
def test_wrong_files(old: str, new: str, line: int, field: str, says: str) -> None:
    assert old in MINIMAL
    error = wrong(MINIMAL.replace(old, new, 1))
    text = str(error)
    assert (error.line, error.field, error.source) == (line, field, "app.yaml")
    assert text.startswith(f"app.yaml:{line}: ")
    assert field in text
    assert says in text


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("", 1, "is empty"),
        ("# nothing\n", 1, "is empty"),
        ("---\n...\n", 1, "is empty"),
        ("null", 1, "is empty"),
        ("a text", 1, "expects a mapping with the fields of an application"),
        ("[1, 2]", 1, "got a list"),
        (MINIMAL + "---\n" + MINIMAL, 7, "holds 2 documents"),
        ("name: digits\ndeployments:\n\t- name: x\n", 3, "a tab stands in the indentation"),
        ("name: digits\ndeployments:\n  - name: x\n  \ttriton: {}\n", 4, "tab"),
        ("name: [1, 2\ndeployments: []\n", 2, "is not valid YAML"),
        ("name: 'x\n", 2, "is not valid YAML"),
        ("name: *gone\n", 1, "undefined alias"),
        ("name: x\n{a: b}: 1\n", 2, "a key must be a text"),
        ("name: x\n<<: 5\n", 2, "mappings only"),
        ("name: !!int x\n", 1, "does not fit its tag"),
        ("name: x\nlabels: {a: \x07}\n", 2, "is not allowed"),
        ("a: &a [*a]\n", 1, "nested too deeply"),
        ("[" * 3000, 0, ""),
    ],
)
def test_files_that_are_not_applications(text: str, line: int, says: str) -> None:
    error = wrong(text)
    assert says in str(error)
    assert not line or error.line == line


def test_a_small_text_cannot_become_huge() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    assert "uses its aliases too often" in str(wrong("\n".join(lines)))
    assert "larger than" in str(wrong("x" * (2 << 20)))


def test_all_problems_with_their_lines() -> None:
    error = wrong(MINIMAL.replace("triton:", "triton:\n      modles: []") + "    replica: 2\nnamspace: x\n")
    text = str(error)
    assert "has 3 problems" in text
    for line, field in ((5, "deployments[0].triton.modles"), (7, "deployments[0].replica"), (8, "namspace")):
        assert f"app.yaml:{line}: {field}: " in text
    assert error.line == 5


def test_what_cannot_be_read_does_not_hide_what_is_wrong_otherwise(app_file: Path) -> None:
    """Words, values and folders in one round, and nothing that only follows from something else."""
    text = MINIMAL.replace("name: digits\n", "name: Not_A_Name\nlabls: {}\n", 1)
    text += "    max_restarts: many\n    start_timeout: 2000h\n    replicas: {min: x, max: 3}\n"
    text = text.replace("./models", "./nowhere")
    app_file.write_text(text)
    with pytest.raises(SpecError) as caught:
        load_spec(app_file)
    fields = [line.split(": ")[1] for line in str(caught.value).splitlines()[1:]]
    assert fields == [
        "name",
        "labls",
        "deployments[0].triton.repository",
        "deployments[0].max_restarts",
        "deployments[0].start_timeout",
        "deployments[0].replicas.min",
    ]


ONE: str = "name: a\ndeployments: [{name: d, triton: {repository: /m}, %s}]"


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        (ONE % "resources: {cpus: -1, memory: lots, custom: {CPU: 3}}", {"cpus", "memory", "custom"}),
        (ONE % "resources: {gpu: 1, cpus: -1}", {"gpu", "cpus"}),
        (ONE % "resources: {custom: {x: many, CPU: 3}}", {"x", "custom"}),
        (ONE % "env: {1A: x, B: []}", {"env", "B"}),
        (ONE % "replicas: {min: -3, max: x}", {"min", "max"}),
        (ONE % "replicas: {min: -3, maxx: 4}", {"min", "maxx"}),
        (ONE % "replica: 2, replicas: -2", {"replica", "replicas.min"}),
        (
            "name: a\ndeploymens: []\ndeployments:\n"
            "- {name: d, triton: {repository: /m}, replicas: -2}\n- {name: d, triton: {repository: /m}}",
            {"deploymens", "replicas.min", "deployments[1].name"},
        ),
    ],
)
def test_all_of_them_are_answered_in_one_round(text: str, fields: set[str]) -> None:
    found = [line.split(": ")[1] for line in str(wrong(text)).splitlines()[1:]]
    assert len(found) == len(fields), found
    assert all(any(field == one or field.endswith(f".{one}") for field in found) for one in fields), found


@pytest.mark.parametrize(
    "text",
    [
        "nmae: digits\ndeployments: [{name: d, triton: {repository: /m}}]",
        "name: digits\ndeployment: [{name: d, triton: {repository: /m}}]",
        "name: digits\ndeployments: {}",
        "name: digits\ndeployments: [7]",
        "name: digits\ndeployments: [{name: d, triton: {repositry: /m}}]",
        "name: digits\ndeployments: [{name: d, triton: {repository: {uri: 's3://a/b'}}}]",
        ONE % "replicas: {min: x, max: 3}",
        ONE % "replicas: {mn: 2, max: 2}",
        ONE % "replicas: {min: 2, maxx: 2}",
        ONE.replace("/m", "{uri: 5, digest: 'sha256:" + 64 * "0" + "'}") % "env: {}",
        "name: digits\nplacement: []\ndeployments: [{name: d, triton: {repository: /m}}]",
    ],
)
def test_one_mistake_is_one_problem(text: str) -> None:
    assert "problems" not in str(wrong(text))


def test_load_is_relative_to_the_file(app_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    assert load_spec(app_file).local_folders() == (app_file.parent / "models",)


def test_load_says_when_the_folder_is_not_there(app_file: Path) -> None:
    (app_file.parent / "models").rename(app_file.parent / "elsewhere")
    with pytest.raises(SpecError, match=r"app\.yaml:13: .*models does not exist") as caught:
        load_spec(app_file)
    assert caught.value.field == "deployments[0].triton.repository"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path, says in ((tmp_path / "gone.yaml", "No such file"), (tmp_path, "directory")):
        with pytest.raises(SpecError, match=says):
            load_spec(path)
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"name: x\nlabels: \xff\xfe")
    with pytest.raises(SpecError, match=r"binary\.yaml:2: is not UTF-8"):
        load_spec(binary)


@given(st.text(max_size=300))
def test_any_text_is_answered_with_a_spec_error(text: str) -> None:
    with pytest.raises(SpecError):
        parse_spec(text)


@given(st.data())
def test_any_damage_is_answered_with_a_spec_error(data: st.DataObject) -> None:
    """Cut, change or double a line of a good file: a spec or a `SpecError`, nothing else."""
    lines = MINIMAL.splitlines()
    at = data.draw(st.integers(0, len(lines) - 1))
    piece = data.draw(st.text(alphabet="abc:-[]{}&*!|>%@`\"'# \t0", max_size=12))
    cut = data.draw(st.integers(0, len(lines[at])))
    lines[at] = lines[at][:cut] + piece
    try:
        parse_spec("\n".join(lines)).to_spec()
    except SpecError as error:
        text = str(error)
        assert "spec" in text


def test_a_model_that_is_not_in_the_repository(tmp_path: Path) -> None:
    (tmp_path / "models" / "digits").mkdir(parents=True)
    file = tmp_path / "app.yaml"
    file.write_text("name: a\ndeployments:\n  - name: d\n    triton: {repository: ./models, models: [digit]}\n")
    with pytest.raises(SpecError, match=r"has no model `digit`; did you mean `digits`\? \(allowed: digits\)") as caught:
        load_spec(file)
    assert (caught.value.line, caught.value.field) == (4, "deployments[0].triton.models[0]")
