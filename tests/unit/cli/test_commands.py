"""Messages, exit codes and JSON shapes of every command that asks a mesh."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cli_fakes import FakeMesh, view
from click.testing import Result

from serving._proto import records_pb2 as pb
from serving.errors import (
    Conflict,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    MeshError,
    NotFound,
    StoreUnavailable,
    Unavailable,
)
from serving.sdk.status import AppEvent, AppStatus, DeployResult
from serving.store.keys import AppKey

Run = Callable[..., Result]

SPEC = """
name: digits
deployments:
  - name: digits
    triton: {repository: ./models}
"""


@pytest.fixture
def spec_file(tmp_path: Path) -> Path:
    (tmp_path / "models" / "digits").mkdir(parents=True)
    path = tmp_path / "app.yaml"
    path.write_text(SPEC)
    return path


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidArgument("bad"), 2),
        (NotFound("gone"), 3),
        (Unavailable("nobody"), 4),
        (StoreUnavailable("no etcd"), 4),
        (DeadlineExceeded("late"), 5),
        (FailedPrecondition("broken"), 1),
        (Conflict("changed"), 1),
        (Internal("fault"), 1),
    ],
)
def test_every_error_is_one_sentence_and_one_code(fake: FakeMesh, run: Run, error: MeshError, code: int) -> None:
    fake.error = error
    result = run("status")
    assert (result.exit_code, result.stderr, result.stdout) == (code, f"mesh: {error.message}\n", "")
    result = run("status", "--json")
    assert result.exit_code == code
    assert json.loads(result.stderr) == {
        "error": {"code": error.code.name, "message": error.message, "exit_code": code}
    }


@pytest.mark.usefixtures("fake")
def test_a_fault_is_no_trace_unless_debug(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr("serving.sdk.AsyncMeshClient", broken)
    result = run("status")
    assert result.exit_code == 1
    assert result.stderr.startswith("mesh: unexpected RuntimeError: boom.")
    assert "Traceback" not in result.stderr
    assert "Traceback" in run("status", "--debug").stderr


def test_no_mesh_there(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MESH_CONFIG", raising=False)
    result = run("status", "--dir", str(tmp_path / "nowhere"))
    assert result.exit_code == 4
    assert "start one with `mesh up --dir" in result.stderr


@pytest.mark.usefixtures("fake")
def test_unknown_commands_and_names(run: Run) -> None:
    result = run("staus")
    assert result.exit_code == 2
    assert "Did you mean `status`?" in result.stderr
    result = run("status", "No_Name")
    assert result.exit_code == 2
    assert "`No_Name` is not a valid name" in result.stderr
    result = run("status", "a/digits", "-n", "b")
    assert result.exit_code == 2
    assert "--namespace says b" in result.stderr


def test_status_of_all(fake: FakeMesh, run: Run) -> None:
    result = run("status")
    assert result.stdout.splitlines() == [
        "NAMESPACE  NAME    PHASE  REPLICAS  CLUSTER  REVISION  MESSAGE",
        "default    digits  READY  1/2       east     2         2 of 2 ready",
    ]
    assert fake.asked == [("list", "")]
    fake.apps.clear()
    assert run("status", "-n", "team").stdout == (
        "no applications in namespace team; `mesh deploy app.yaml` stores one\n"
    )


@pytest.mark.usefixtures("fake")
def test_status_of_one(run: Run) -> None:
    result = run("status", "digits")
    for text in (
        "default/digits  READY",
        "placed    east (generation 1)",
        "revision  2, serves revision 2",
        "deployment digits: 1 of 2 replicas are ready",
        "digits-r2-1  FAILED  -               -    0         2         model digits: no file",
    ):
        assert text in result.stdout
    result = run("status", "nothing")
    assert (result.exit_code, result.stderr) == (3, "mesh: there is no application default/nothing\n")


def test_status_of_one_says_each_fact_once(fake: FakeMesh, run: Run) -> None:
    cause = "model digits: no file"
    reason = f"0 of 2 replicas of revision 2 are ready, a replica has failed: {cause}"
    found = view(phase=pb.FAILED, message=f"cluster east does not report: digits: {reason}")
    found.status.deployments[0].ready = 0
    found.status.deployments[0].reason = reason
    found.status.conditions.add(type="RevisionServing", message=f"revision 2 does not start: digits: {cause}")
    found.status.conditions.add(type="StoreReachable", message="etcd does not answer")
    fake.apps["digits"] = found
    shown = run("status", "digits").stdout
    assert shown.splitlines()[1] == "  cluster east does not report"
    assert f"deployment digits: {reason}\n" in shown
    assert "  not StoreReachable: etcd does not answer\n" in shown
    for fact in (cause, "0 of 2", "revision 2 does not start"):
        assert shown.count(fact) == (0 if fact.startswith("revision") else 1)


@pytest.mark.usefixtures("fake")
def test_the_shape_of_status(run: Run) -> None:
    shape = json.loads(run("status", "digits", "--json").stdout)
    assert set(shape) == {
        "namespace",
        "name",
        "phase",
        "message",
        "ready",
        "cluster",
        "generation",
        "revision",
        "serving_revision",
        "paused",
        "deleting",
        "reasons",
        "conditions",
        "deployments",
        "metrics_address",
    }
    assert shape["deployments"][0]["replicas"][0] == {
        "id": "digits-r2-0",
        "state": "READY",
        "node": "",
        "address": "127.0.0.1:9000",
        "pid": 7,
        "restarts": 0,
        "revision": 2,
        "reason": "",
        "since": None,
    }
    listed = {"applications": [shape], "gateway": None, "gateway_grpc": None}
    assert json.loads(run("status", "--json").stdout) == listed


def test_status_watch(fake: FakeMesh, run: Run) -> None:
    first = AppStatus.from_view(view(phase=pb.STARTING, message="starting"))
    ready = AppEvent(AppStatus.from_view(view()))
    fake.events = [AppEvent(first), ready, ready, AppEvent(first, deleted=True)]
    assert run("status", "digits", "--watch").stdout.splitlines() == [
        "default/digits  STARTING  east  revision 2  starting",
        "default/digits  READY  east  revision 2  2 of 2 ready",
        "default/digits  DELETED  east  revision 2  starting",
    ]
    lines = [json.loads(line) for line in run("status", "--watch", "--json").stdout.splitlines()]
    assert [(line["event"], line["application"]["phase"]) for line in lines] == [
        ("changed", "STARTING"),
        ("changed", "READY"),
        ("changed", "READY"),
        ("deleted", "STARTING"),
    ]


def test_endpoints(fake: FakeMesh, run: Run) -> None:
    result = run("endpoints", "digits", "--role", "direct")
    assert result.stdout.splitlines()[1].split() == [
        "default/digits", "digits-r2-0", "-", "direct", "kserve-grpc", "ready", "127.0.0.1:9000", "0", "digits:1",
    ]  # fmt: skip
    assert fake.asked == [("endpoints", "direct")]
    shape = json.loads(run("endpoints", "digits", "--json").stdout)["endpoints"][0]
    assert (shape["weight"], shape["models"]) == (100, [{"name": "digits", "versions": ["1"]}])
    fake.apps["quiet"] = view("quiet")
    assert run("endpoints", "quiet").stdout == "default/quiet has no endpoints; `mesh status quiet` says why\n"
    assert run("endpoints", "nothing").exit_code == 3
    assert [line.split()[0] for line in run("endpoints").stdout.splitlines()] == ["APPLICATION", "default/digits"]
    fake.apps.clear()
    assert run("endpoints").stdout == "no endpoints; `mesh status` shows the applications\n"


@pytest.mark.usefixtures("fake")
def test_clusters(run: Run) -> None:
    row = run("clusters").stdout.splitlines()[1]
    assert row.split("  ")[0] == "east"
    for text in ("yes", "now", "6.5/8", "4.0 GiB/8.0 GiB", "zone=a"):
        assert text in row
    shape = json.loads(run("clusters", "--json").stdout)["clusters"][0]
    assert (shape["name"], shape["alive"], shape["applications"]) == ("east", True, ["default/digits"])
    assert shape["nodes"][0]["total"]["cpus"] == 8.0


def test_deploy(fake: FakeMesh, run: Run, spec_file: Path) -> None:
    fake.result = DeployResult("default", "digits", 3, True, "uid-1", status=AppStatus.from_view(view()))
    result = run("deploy", str(spec_file))
    assert result.stdout == "default/digits revision 3 stored\nREADY on east\n"
    app, values = fake.asked[0][1]
    assert (app.namespace, app.name, values["wait"], values["timeout_s"]) == ("default", "digits", True, 300.0)
    fake.result = DeployResult("team", "digits", 3, False, "uid-1")
    result = run("deploy", str(spec_file), "--no-wait", "-n", "team", "--if-revision", "2", "--json")
    assert json.loads(result.stdout) == {
        "namespace": "team",
        "name": "digits",
        "revision": 3,
        "changed": False,
        "uid": "uid-1",
        "status": None,
        "would_place": None,
    }
    app, values = fake.asked[1][1]
    assert (app.namespace, values["wait"], values["if_revision"]) == ("team", False, 2)


def test_deploy_dry_run(fake: FakeMesh, run: Run, spec_file: Path) -> None:
    nowhere = pb.Decision(reasons=[pb.ClusterReason(cluster="east", reason="too small")])
    fake.result = DeployResult("default", "digits", 1, True, "", would_place=nowhere)
    assert run("deploy", str(spec_file), "--dry-run").stdout == (
        "default/digits would become revision 1\nit fits on no cluster now:\n  east: too small\n"
    )
    somewhere = pb.Decision(cluster="east", generation=1, why="first placement")
    fake.result = DeployResult("default", "digits", 1, True, "", would_place=somewhere)
    assert "it would run on east (first placement)" in run("deploy", str(spec_file), "--dry-run").stdout
    assert fake.asked[0][1][1]["wait"] is False


@pytest.mark.usefixtures("fake")
def test_a_typo_in_a_spec_names_line_field_and_nearest(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("name: digits\ndeployments:\n  - name: digits\n    triton: {repository: .}\n    replicsa: 2\n")
    result = run("deploy", str(path))
    assert result.exit_code == 2
    assert f"{path}:5:" in result.stderr
    assert "did you mean `replicas`?" in result.stderr
    result = run("deploy", str(tmp_path / "missing.yaml"))
    assert result.exit_code in (2, 3)
    assert "missing.yaml" in result.stderr


def test_delete_revisions_rollback(fake: FakeMesh, run: Run) -> None:
    key = AppKey("default", "digits")
    assert run("delete", "digits").stdout == "default/digits is deleted\n"
    assert run("delete", "digits", "--no-wait").stdout == "default/digits is being deleted\n"
    assert fake.asked == [("delete", (key, True)), ("delete", (key, False))]
    assert run("delete", "nothing").exit_code == 3
    shown = run("revisions", "digits").stdout.splitlines()[1]
    for text in ("2", "2026-01-02 03:04:05", "ann", "digits x2", "rollback to revision 1"):
        assert text in shown
    shape = json.loads(run("revisions", "digits", "--json").stdout)["revisions"][0]
    assert (shape["revision"], shape["created_at"]) == (2, "2026-01-02T03:04:05.000Z")
    assert run("rollback", "digits", "1", "--no-wait").stdout == "default/digits revision 3 stored\n"
    assert fake.asked[-1] == ("rollback", (key, 1, False))
    assert run("rollback", "digits", "none").exit_code == 2


def test_infer(fake: FakeMesh, run: Run, tmp_path: Path) -> None:
    array = tmp_path / "image.npy"
    np.save(array, np.array([[1, 2], [3, 4]], dtype=np.float32))
    result = run("infer", "digits", "digits", "--input", str(array), "--json")
    shape = json.loads(result.stdout)
    assert shape["outputs"]["sum"] == {"dtype": "float32", "shape": [2], "data": [3.0, 7.0]}
    assert shape["outputs"]["label"]["data"] == ["one"]
    values = tmp_path / "image.json"
    values.write_text("[[1, 2]]")
    assert "sum  float32[1]\n[3.]" in run("infer", "digits", "digits", "--input", str(values)).stdout
    values.write_text('{"image": [[1, 2]]}')
    assert run("infer", "digits", "digits", "--input", str(values)).exit_code == 0
    assert fake.asked[-1][1][1]["image"].dtype == np.float32


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(
    ("content", "option", "message"),
    [
        ("[[1, 2], [3]]", "{file}", "input `image` is not a full list of FP32"),
        ('{"imge": [[1, 2]]}', "{file}", "has no input `imge` (it has: image)"),
        ("{}", "{file}", "also needs image: --input image=FILE"),
        ("nonsense", "{file}", "is not JSON"),
        ("[]", "other={file}", "has no input `other`"),
        ("[]", "{file}x", "there is no file"),
    ],
)
def test_wrong_inputs_are_named(run: Run, tmp_path: Path, content: str, option: str, message: str) -> None:
    path = tmp_path / "in.json"
    path.write_text(content)
    result = run("infer", "digits", "digits", "--input", option.format(file=path))
    assert result.exit_code == 2
    assert message in result.stderr


def damaged_archive() -> bytes:
    """A .npz whose member does not have the checksum that the archive says."""
    held = io.BytesIO()
    np.savez(held, image=np.zeros((64, 64), dtype=np.float32))
    data = bytearray(held.getvalue())
    data[len(data) // 2] ^= 0xFF
    return bytes(data)


def archive_of_text() -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("image", "no array")
    return held.getvalue()


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("in.npz", damaged_archive(), "is not a numpy file without pickled objects"),
        ("in.npz", b"PK\x03\x04 and no more", "is not a numpy file without pickled objects"),
        ("in.npz", archive_of_text(), "its entry `image` is no numpy array"),
        ("in.npy", b"\x93NUMPY\x01\x00", "is not a numpy file without pickled objects"),
        ("in.npy", b"", "is not a numpy file without pickled objects"),
        ("in.json", b"\xff\xfe", "is not JSON"),
        ("in.json", b"[" * 200_000, "is not JSON"),
    ],
)
def test_damaged_files_are_wrong_inputs(run: Run, tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    result = run("infer", "digits", "digits", "--input", str(path))
    assert result.exit_code == 2, result.stderr
    assert f"mesh: {path}" in result.stderr
    assert message in result.stderr


def test_what_a_file_holds_decides_and_not_its_name(fake: FakeMesh, run: Run, tmp_path: Path) -> None:
    array, archive = tmp_path / "one.npz", tmp_path / "several.npy"
    with array.open("wb") as file:
        np.save(file, np.zeros((1, 2), dtype=np.float32))
    with archive.open("wb") as file:
        np.savez(file, image=np.zeros((1, 2), dtype=np.float32))
    for path in (array, archive):
        assert run("infer", "digits", "digits", "--input", str(path)).exit_code == 0
        assert list(fake.asked[-1][1][1]) == ["image"]
