"""Commands that need no mesh: up and down at their seam, completion, version, help, doctor, model check."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from serving.cli import check, checks, main, model_check
from serving.cli.group import COMMANDS
from serving.cli.output import ago, table
from serving.cli.waiting import Waiting
from serving.errors import AlreadyExists, InvalidArgument

Run = Callable[..., Result]


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
        deadline, shown = time.monotonic() + 60, ""
        while not shown.endswith("\n") and time.monotonic() < deadline:
            shown += capsys.readouterr().err
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
