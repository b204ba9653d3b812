"""What the scripts say while they work."""

from __future__ import annotations

import subprocess
from pathlib import Path

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
