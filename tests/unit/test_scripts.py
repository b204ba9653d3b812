"""What the scripts say while they work."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from tests.support.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]


def test_a_step_says_at_once_what_it_does_where_there_is_no_terminal(tmp_path: Path) -> None:
    script = f'set -e; . "{ROOT}/scripts/lib/steps.sh"; step "making a pipe" sh -c "cat gate"'
    subprocess.run(["mkfifo", str(tmp_path / "gate")], check=True)
    with subprocess.Popen(["bash", "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "  making a pipe ...\n"
        (tmp_path / "gate").write_text("go on")  # only now can it end
        assert running.stdout.readline().startswith("  making a pipe: done in ")
    assert running.returncode == 0


def test_a_step_that_fails_shows_the_end_of_its_log(tmp_path: Path) -> None:
    script = f'. "{ROOT}/scripts/lib/steps.sh"; step "failing" sh -c "echo the reason; exit 3"'
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "failing: FAILED" in done.stderr
    assert "the reason" in done.stderr


def beside(tmp_path: Path, most: int, command: str, *pieces: str) -> subprocess.CompletedProcess[str]:
    names = " ".join(f'"{piece}"' for piece in pieces)
    script = (
        f'set -euo pipefail; . "{ROOT}/scripts/lib/beside.sh"; one() {{ {command}; }}; beside {most} logs one {names}'
    )
    return subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)


def test_pieces_run_beside_each_other_and_the_next_begins_when_one_ends(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        subprocess.run(["mkfifo", str(tmp_path / name)], check=True)
    meets = {"writer of a": "echo x >a", "reader": "cat a; cat b", "writer of b": "echo y >b"}
    cases = " ".join(f'"{name}") {what};;' for name, what in meets.items())
    done = beside(tmp_path, 2, f'case "$*" in {cases} esac', *meets)
    assert done.returncode == 0, done.stderr
    assert "reader: status 0" in done.stdout
    assert "x\ny\n" in done.stdout


def test_the_worst_status_of_the_pieces_is_told_and_all_of_them_run(tmp_path: Path) -> None:
    done = beside(tmp_path, 1, 'echo "$# words"; exit $1', "0 a", "3 b c", "1", "0")
    assert done.returncode == 3
    assert [line for line in done.stdout.splitlines() if "words" in line] == [
        "2 words",
        "3 words",
        "1 words",
        "1 words",
    ]
    assert "3 b c: status 3" in done.stdout


def test_pieces_that_run_are_interrupted_once(tmp_path: Path) -> None:
    program = (
        "import signal, time; signal.signal(signal.SIGINT, lambda *_: exit(4)); print('up', flush=True); time.sleep(60)"
    )
    (tmp_path / "wait.py").write_text(program)
    command = f"exec env --default-signal=INT {sys.executable} wait.py"
    script = f'. "{ROOT}/scripts/lib/beside.sh"; one() {{ {command}; }}; beside 2 logs one a b c'
    with subprocess.Popen(["bash", "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as running:
        logs = [tmp_path / "logs" / f"{name}.log" for name in "ab"]
        eventually(lambda: all(log.exists() and log.read_text() for log in logs), timeout_s=30, what="two that run")
        running.send_signal(signal.SIGINT)
        assert running.wait(120) == 130
    assert not (tmp_path / "logs" / "c.log").exists()
