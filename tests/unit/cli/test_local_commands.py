"""Commands that need no mesh: logs, up and down at their seam, completion, version, help, doctor, model check."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from cli_fakes import FakeMesh
from click.testing import Result
from hypothesis import given
from hypothesis import strategies as st

from serving.cli import check, checks, main, model_check
from serving.cli.group import COMMANDS
from serving.cli.log_tail import BLOCK_BYTES, Source, Tail, backwards, last_lines
from serving.cli.output import ago, table
from serving.cli.waiting import Waiting
from serving.errors import AlreadyExists, InvalidArgument

Run = Callable[..., Result]


def line(second: int, text: str, level: str = "info") -> str:
    return json.dumps({"ts": f"2026-01-01T00:00:{second:02d}.000Z", "level": level, "msg": text, "pid": 7}) + "\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    master = tmp_path / "logs" / "masters" / "default.digits.log"
    replicas = tmp_path / "logs" / "replicas" / "default" / "digits" / "digits"
    master.parent.mkdir(parents=True)
    replicas.mkdir(parents=True)
    master.write_text(line(1, "starting") + line(4, "ready"))
    (replicas / "digits-r1-0.log").write_text(line(2, "loading") + "plain words\n" + line(5, "broken", "error"))
    (replicas / "digits-r1-1.log").write_text(line(3, "loading"))
    return tmp_path


def test_logs_are_merged_by_time(run: Run, folder: Path) -> None:
    result = run("logs", "digits", "--dir", str(folder))
    assert [text.split("  ")[0] for text in result.stdout.splitlines()] == [
        "master",
        "digits-r1-0",
        "digits-r1-0",
        "digits-r1-1",
        "master",
        "digits-r1-0",
    ]
    assert "digits-r1-0  plain words" in result.stdout
    assert "2026-01-01T00:00:05.000Z ERROR broken  pid=7" in result.stdout
    assert len(run("logs", "digits", "--dir", str(folder), "--tail", "2").stdout.splitlines()) == 2


def test_logs_of_a_deployment_a_replica_and_a_level(run: Run, folder: Path) -> None:
    assert "master" not in run("logs", "digits/digits", "--dir", str(folder)).stdout
    one = run("logs", "digits/digits/digits-r1-1", "--dir", str(folder), "--json")
    assert json.loads(one.stdout)["record"]["msg"] == "loading"
    errors = run("logs", "digits", "--dir", str(folder), "--level", "error")
    assert "broken" in errors.stdout
    assert "loading" not in errors.stdout


def test_logs_that_are_not_there(run: Run, folder: Path) -> None:
    result = run("logs", "digits/digits/digits-r9-9", "--dir", str(folder))
    assert result.exit_code == 3
    assert "there are logs of: digits/digits-r1-0, digits/digits-r1-1" in result.stderr
    assert run("logs", "nothing", "--dir", str(folder)).exit_code == 3
    assert run("logs", "a/b/c/d", "--dir", str(folder)).exit_code == 2


def test_logs_of_other_machines_are_named_with_their_nodes(run: Run, fake: FakeMesh, folder: Path) -> None:
    for row, node in zip(fake.apps["digits"].status.deployments[0].replicas, ("n0", "gone"), strict=True):
        row.node = node
    here = run("logs", "digits", "--dir", str(folder))
    assert here.exit_code == 0
    path = folder / "logs" / "replicas" / "default" / "digits" / "digits"
    assert (
        f"digits-r2-0 runs on node 10.0.0.7 of cluster east: its log is {path / 'digits-r2-0.log'} there" in here.stderr
    )
    assert "digits-r2-1 runs on node gone of cluster east" in here.stderr
    assert "the master runs" not in here.stderr
    one = run("logs", "digits/digits/digits-r2-0", "--dir", str(folder))
    assert one.exit_code == 3
    assert "10.0.0.7" in one.stderr
    assert "digits-r2-1" not in one.stderr
    (path / "digits-r2-0.log").write_text(line(6, "here"))
    assert "digits-r2-0 runs" not in run("logs", "digits", "--dir", str(folder)).stderr


def test_a_followed_file_grows_is_cut_and_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    tail = Tail(Source("x", path))
    assert tail.lines() == []
    path.write_text("one\ntw")
    assert tail.lines() == ["one"]
    with path.open("a") as file:
        file.write("o\n")
    assert tail.lines() == ["two"]
    path.write_text("new\n")
    assert tail.lines() == ["new"]
    other = tmp_path / "y.log"
    other.write_text("replaced\n")
    other.replace(path)
    assert tail.lines() == ["replaced"]
    assert [text for _, text in last_lines([tail], 5)] == ["replaced"]
    assert last_lines([tail], 0) == []
    assert tail.lines() == []
    tail.close()


def state(folder: Path) -> Any:
    from serving.local.state import ClusterState, MeshState

    clusters = (ClusterState("east", "127.0.0.1:6379"),)
    return MeshState(folder, "ready", {"endpoints": ["127.0.0.1:2379"]}, "file:///artifacts", clusters)


def test_up_and_down(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def up(options: Any, on_progress: Callable[[str], None]) -> Any:
        asked.append(options)
        on_progress("starting etcd")
        return state(tmp_path)

    monkeypatch.setattr("serving.local.mesh.up", up)
    monkeypatch.setattr("serving.local.mesh.down", lambda folder, _: asked.append(folder))
    result = run("up", "--detach", "--clusters", "2", "--gpus", "1", "--dir", str(tmp_path))
    assert result.exit_code == 0
    assert result.stdout.startswith(f"the mesh is up in {tmp_path} (clusters: east)\n")
    assert (asked[0].clusters, asked[0].gpus_per_cluster, asked[0].mesh_dir) == (2, 1, tmp_path)
    shape = json.loads(run("up", "--detach", "--dir", str(tmp_path), "--json").stdout)
    assert shape["clusters"] == [{"name": "east", "ray_address": "127.0.0.1:6379"}]
    assert run("down", "--dir", str(tmp_path)).stdout == f"the mesh in {tmp_path} is down\n"
    assert asked[-1] == tmp_path


def test_up_twice(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def up(*_: object) -> None:
        raise AlreadyExists("a mesh already runs here")

    monkeypatch.setattr("serving.local.mesh.up", up)
    result = run("up", "--detach", "--dir", str(tmp_path))
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (1, "mesh: a mesh already runs here")
    assert run("up", "--clusters", "0").exit_code == 2
    assert run("up", "-f", str(tmp_path / "missing.yaml")).exit_code == 2
    assert run("up", "--cpus", "0.5").exit_code == 2


def test_up_beside_existing_parts_refuses_what_the_file_says(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "mesh.yaml"
    file.touch()
    result = run("up", "-f", str(file), "--clusters", "1", "--dir", str(tmp_path))
    assert result.exit_code == 2
    assert result.stderr == f"mesh: --clusters is for a mesh with its own clusters; {file} says what it is here\n"


def test_down_without_a_mesh(run: Run, tmp_path: Path) -> None:
    result = run("down", "--dir", str(tmp_path))
    assert result.exit_code == 3
    assert "no mesh in" in result.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(run: Run, shell: str) -> None:
    result = run("completion", shell)
    assert result.exit_code == 0
    assert "_MESH_COMPLETE" in result.stdout


def test_version(run: Run) -> None:
    found = json.loads(run("version", "--json").stdout)
    assert {"mesh", "ray", "triton", "openvino", "grpc", "python"} <= set(found)
    assert run("--version").stdout == f"mesh {found['mesh']}\n"


def test_interrupted_before_the_command_began(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(_: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("serving.cli.group.import_module", interrupt)
    with pytest.raises(SystemExit) as caught:
        main(["status"])
    assert (caught.value.code, capsys.readouterr().err.strip()) == (130, "interrupted")


def test_usage_errors_end_with_their_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["statsu"])
    assert caught.value.code == 2
    wanted = "There is no command `statsu`. Did you mean `status`? (`mesh --help` says what there is)"
    assert capsys.readouterr().err == f"mesh: {wanted}\n"
    with pytest.raises(SystemExit) as caught:
        main(["statsu", "--json"])
    assert caught.value.code == 2
    said = json.loads(capsys.readouterr().err)
    assert said == {"error": {"code": "INVALID_ARGUMENT", "message": wanted, "exit_code": 2}}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["up", "--cluster", "2"], "No such option"),
        (["up", "--clusters", "none"], "'none' is not a valid integer"),
        (["delete"], "Missing argument 'APP'"),
        (["infer", "a", "b"], "Missing option '--input'"),
    ],
)
def test_usage_errors_are_one_sentence_or_one_object(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for more in ([], ["--json"]):
        with pytest.raises(SystemExit) as caught:
            main([*words, *more])
        assert caught.value.code == 2
        said = capsys.readouterr().err
        assert message in said
        assert f"(`mesh {words[0]} --help` says what there is)" in said
        assert json.loads(said)["error"]["exit_code"] == 2 if more else said.startswith("mesh: ")
        assert said.count("\n") == 1


def test_no_command_at_all_shows_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 2
    assert "Usage: mesh" in capsys.readouterr().err


def test_every_command_has_help_that_names_the_exit_codes(run: Run) -> None:
    for name in COMMANDS:
        result = run(name, "--help")
        assert result.exit_code == 0, name
        assert "Exit codes:" in result.stdout, name
    assert "Exit codes:" in run("--help").stdout


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from serving.cli.group import mesh\n"
        "try: mesh.main(['--help'], prog_name='mesh')\n"
        "except SystemExit: pass\n"
        "heavy = {'grpc', 'google', 'numpy', 'ray', 'rich', 'yaml', 'tritonclient', 'asyncio'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "Start a mesh on this machine" in done.stdout


def test_doctor_says_what_to_do(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        check.Check("python", "ok", "3.11"),
        check.Check("etcd", "failed", "missing", "apt-get install etcd-server"),
    ]
    monkeypatch.setattr(checks, "run_all", lambda *_: found)
    result = run("doctor", "--dir", str(tmp_path))
    assert result.exit_code == 1
    assert "failed etcd: apt-get install etcd-server" in result.stdout
    assert "1 of 2 checks failed" in result.stdout
    shape = json.loads(run("doctor", "--dir", str(tmp_path), "--json").stdout)
    assert (shape["ok"], len(shape["checks"])) == (False, 2)


def test_the_checks_themselves(tmp_path: Path) -> None:
    found = {item.name: item for item in checks.run_all(tmp_path, lambda _: None)}
    assert found["python"].state == "ok"
    assert found["loopback"].state == "ok"
    assert found["mesh"].found == f"none runs in {tmp_path}"
    assert all(item.advice for item in found.values() if item.state == "failed")
    assert not [item for item in found.values() if item.found.startswith("the check itself failed")]


@pytest.mark.parametrize(
    ("version", "state"), [((3, 9), "failed"), ((3, 10), "ok"), ((3, 12), "ok"), ((3, 13), "failed")]
)
def test_a_python_that_the_packages_lack_is_refused(
    version: tuple[int, int], state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks.sys, "version_info", (*version, 1))
    found = next(item for item in checks.machine(tmp_path) if item.name == "python")
    assert (found.state, "uv python install 3.12" in found.advice) == (state, state == "failed")


def test_commands_take_only_the_options_that_mean_something_there(run: Run) -> None:
    shared = {"--config", "--dir", "--namespace"}
    takes = {
        "up": {"--config", "--dir"},  # there --config is -f
        "down": {"--dir"},
        "doctor": {"--config", "--dir"},
        "clusters": {"--config", "--dir"},
        "status": shared,
        "version": set(),
    }
    for name, wanted in takes.items():
        shown = {word.strip(",") for word in run(name, "--help").stdout.split() if word.startswith("--")}
        assert shown & shared == wanted, name
    assert run("down", "--config", "mesh.yaml").exit_code == 2


def test_the_file_of_up_may_be_called_config(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "mesh.yaml"
    path.write_text("name: 5\n")
    result = run("up", "--config", str(path), "--clusters", "2", "--dir", str(tmp_path / "mesh"))
    assert result.exit_code == 2
    assert f"--clusters is for a mesh with its own clusters; {path} says" in result.stderr


@given(st.binary(max_size=200).map(lambda data: data.replace(b"a", b"\n")), st.integers(1, 7))
def test_lines_are_found_backwards_whatever_the_blocks(data: bytes, block: int) -> None:
    with patch("serving.cli.log_tail.BLOCK_BYTES", block):
        assert list(backwards(io.BytesIO(data), len(data)))[::-1] == data.split(b"\n")


def test_the_newest_lines_are_read_from_the_end(run: Run, folder: Path) -> None:
    """Of a large file only its end is read, and a level is chosen before lines are counted."""
    path = folder / "logs" / "replicas" / "default" / "digits" / "digits" / "digits-r1-0.log"
    old = [line(1, "old" * 100) for _ in range(20 * BLOCK_BYTES // 300)]
    path.write_text("".join(old) + line(2, "broken", "error") + "".join(line(3, "new") for _ in range(50)) + "cut")
    tail = Tail(Source("x", path))
    assert [json.loads(text)["msg"] for text in tail.newest(2, lambda _: True)] == ["new", "new"]
    with path.open("a") as file:
        file.write(" here\nand")
    assert tail.lines() == ["cut here"]
    read = 0

    class Counting(io.FileIO):
        def read(self, size: int | None = -1) -> bytes:
            nonlocal read
            found = super().read(size) or b""
            read += len(found)
            return found

    with Counting(path) as counting:
        ends = backwards(counting, path.stat().st_size)
        assert [next(ends) for _ in range(2)] == [b"and", b"cut here"]
    assert 0 < read <= BLOCK_BYTES
    shown = run("logs", "digits/digits/digits-r1-0", "--dir", str(folder), "--level", "error", "--tail", "2").stdout
    assert "ERROR broken" in shown
    assert "old" not in shown


def completed(*words: str) -> list[str]:
    """What the shell offers for the last word."""
    from click.shell_completion import ShellComplete

    from serving.cli.group import mesh

    return [item.value for item in ShellComplete(mesh, {}, "mesh", "_X").get_completions(list(words[:-1]), words[-1])]


@pytest.mark.usefixtures("fake")
def test_names_of_applications_and_deployments_are_completed(tmp_path: Path) -> None:
    for words in (("status",), ("delete",), ("endpoints",), ("infer",), ("rollback", "--no-wait")):
        assert completed(*words, "") == ["digits"]
    assert completed("status", "x") == []
    assert completed("logs", "") == ["digits"]
    assert completed("logs", "digits/") == ["digits/digits"]
    assert completed("logs", "digits/digits/digits-r2-1") == ["digits/digits/digits-r2-1"]
    assert completed("status", "--dir", str(tmp_path / "nowhere"), "") == []


def test_versions_are_compared_with_the_pins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = checks.pins()
    assert (found.state, found.advice) == ("ok", ""), found
    assert "numpy" in checks.pinned()
    (tmp_path / "runtime.txt").write_text(
        '# ours\nclick==0.1\nnothere==2; python_version > "3"\nray[cpp]==1; python_version < "3"\n'
    )
    monkeypatch.setattr(checks, "RUNTIME", tmp_path / "runtime.txt")
    (found,) = checks.pins()
    assert found.state == "warning"
    assert "click 0.1 is pinned, found 8" in found.found
    assert "nothere 2 is pinned, found not installed" in found.found
    assert "ray" not in found.found
    monkeypatch.setattr(checks, "RUNTIME", tmp_path / "gone.txt")
    monkeypatch.setattr(checks, "requires", lambda _: ["click==0.1", "gptcache==1; extra == 'cache'"])
    assert checks.pinned() == {"click": "0.1"}


def test_a_check_that_breaks_does_not_hide_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(checks, "etcd", broken)
    found = {item.name: item for item in checks.run_all(tmp_path, lambda _: None)}
    assert found["etcd"].found == "the check itself failed: RuntimeError: boom"
    assert "loopback" in found


def test_model_check_of_what_is_no_repository(run: Run, tmp_path: Path) -> None:
    assert "there is no folder" in run("model", "check", str(tmp_path / "nothing")).stderr
    result = run("model", "check", str(tmp_path))
    assert result.exit_code == 2
    assert "holds no model folders" in result.stderr
    (tmp_path / "digits").mkdir()
    with pytest.raises(InvalidArgument, match="has no model other"):
        model_check.check_repository(tmp_path, ["other"], lambda _: None)


def test_model_check_shows_each_model(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = {
        "name": "digits",
        "state": "READY",
        "reason": "",
        "versions": ["1"],
        "platform": "openvino",
        "inputs": [{"name": "image", "datatype": "FP32", "shape": [-1, 64]}],
        "outputs": [],
        "config": {},
    }
    bad = {"name": "letters", "state": "FAILED", "reason": "input 0 has 3 dims, config says 4"}
    monkeypatch.setattr(model_check, "check_repository", lambda *_, **__: [good, bad])
    result = run("model", "check", str(tmp_path))
    assert result.exit_code == 1
    assert "input  image  FP32      [-1, 64]" in result.stdout
    assert "letters  FAILED\n  input 0 has 3 dims, config says 4" in result.stdout
    assert "1 of 2 models load" in result.stdout
    assert json.loads(run("model", "check", str(tmp_path), "--json").stdout)["ok"] is False


def test_tables_and_times() -> None:
    assert table(("A", "BB"), [("1", "2"), ("333", "")]) == "A    BB\n1    2\n333"
    assert [ago(at, 1000.0) for at in (0, 999, 940, 700, -5)] == ["-", "1s ago", "60s ago", "5m ago", "-"]


def test_waiting_is_quiet_for_two_seconds_and_plain_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Waiting("first") as waiting:
        waiting("second")
    assert capsys.readouterr().err == ""
    with Waiting("at once", at_once=True) as waiting:
        deadline = time.monotonic() + 10
        while not (shown := capsys.readouterr().err) and time.monotonic() < deadline:
            time.sleep(0.01)
        waiting("then this")
        waiting("then this")
    assert shown.endswith("s] at once\n")
    assert capsys.readouterr().err.count("then this") == 1


def test_the_entry_point_and_its_exit_code() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "serving.cli", "nonsense"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("mesh: There is no command `nonsense`.")
