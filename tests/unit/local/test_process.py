"""Child processes: started in a group, known by more than a pid, ended with all they started."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from serving.errors import DeadlineExceeded, FailedPrecondition, InvalidArgument
from serving.local.ports import free_ports, is_free
from serving.local.process import Process, kill_group, log_tail, stop_group
from serving.process_id import ProcessId

SLEEP = "import time; print('up', flush=True); time.sleep(600)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
if len(sys.argv) > 1:
    sys.exit(0)
time.sleep(600)
"""

Start = Callable[..., Process]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    made: list[Process] = []

    def begin(code: str, *arguments: str, **options: object) -> Process:
        log = tmp_path / f"log{len(made)}"
        process = Process.start("child", [sys.executable, "-c", code, *arguments], log_file=log, **options)  # type: ignore[arg-type]
        made.append(process)
        return process

    yield begin
    for process in made:
        process.kill()


def said(process: Process) -> str:
    process.wait_ready(lambda: process.log_file.read_text().endswith("\n"), timeout_s=120)
    return process.log_file.read_text().strip()


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_gone(pid: int) -> None:
    deadline = time.monotonic() + 120
    while runs(pid):
        assert time.monotonic() < deadline, f"pid {pid} still runs"
        time.sleep(0.01)


def test_a_child_has_its_own_group_and_a_private_log(start: Start) -> None:
    process = start(SLEEP)
    assert said(process) == "up"
    assert os.getpgid(process.pid) == process.pid != os.getpgid(0)
    assert process.log_file.stat().st_mode & 0o777 == 0o600
    assert process.running()
    assert process.exit_status() is None
    assert process.stop(grace_s=30) is True
    assert process.exit_status() == -signal.SIGTERM
    assert process.stop() is True  # again


def test_a_deaf_child_is_killed(start: Start) -> None:
    process = start(DEAF)
    said(process)
    assert process.stop(grace_s=0.2) is False
    assert process.exit_status() == -signal.SIGKILL


def test_a_paused_child_is_stopped(start: Start) -> None:
    process = start(SLEEP)
    said(process)
    process.pause()
    assert process.stop(grace_s=30) is True


def test_grandchildren_end_with_the_group(start: Start) -> None:
    process = start(PARENT)
    grandchild = int(said(process))
    assert runs(grandchild)
    process.stop(grace_s=30)
    assert not runs(grandchild)


def test_grandchildren_of_a_dead_leader_are_found_by_their_token(start: Start) -> None:
    process = start(PARENT, "leave")
    deadline = time.monotonic() + 60
    while process.running():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert process.exit_status() == 0
    grandchild = int(process.log_file.read_text())
    assert process.identity.members() == [grandchild]
    stranger = replace(process.identity, token="of somebody else")
    stop_group(stranger, grace_s=0.1)
    assert runs(grandchild)
    stop_group(process.identity, grace_s=30)
    wait_gone(grandchild)


@pytest.mark.parametrize("change", [{"start_ticks": 1}, {"boot_id": "another boot"}])
def test_a_reused_pid_is_never_touched(start: Start, change: dict[str, object]) -> None:
    process = start(SLEEP)
    said(process)
    other = replace(process.identity, token="", **change)  # type: ignore[arg-type]
    assert not other.alive()
    assert other.members() == []
    assert stop_group(other, grace_s=0.1) is True
    kill_group(other)
    assert process.running()


def test_an_identity_survives_a_file(start: Start) -> None:
    process = start(SLEEP)
    again = ProcessId.from_dict(process.identity.as_dict())
    assert again == process.identity
    assert again.alive()
    stop_group(again, grace_s=30)
    assert not again.alive()  # although it is still a zombie of ours


@pytest.mark.parametrize("data", [{}, {"pid": 1}, {"pid": "x", "start_ticks": 1, "boot_id": ""}])
def test_a_damaged_identity_is_refused(data: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument, match="not the identity of a process"):
        ProcessId.from_dict(data)


def test_a_child_that_ends_before_it_is_ready_says_why(start: Start) -> None:
    process = start("import sys; print('port 7 is taken'); sys.exit(3)")
    with pytest.raises(FailedPrecondition, match=r"(?s)status 3 before it was ready.*port 7 is taken"):
        process.wait_ready(lambda: False, timeout_s=60)


def test_a_child_that_is_not_ready_in_time_says_what_it_did(start: Start) -> None:
    process = start(SLEEP)
    said(process)
    with pytest.raises(DeadlineExceeded, match=r"(?s)not ready within 0.1 s.*up"):
        process.wait_ready(lambda: False, timeout_s=0.1)
    assert process.running()


def test_a_missing_program_is_named(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="cannot execute /no/such/program"):
        Process.start("child", ["/no/such/program"], log_file=tmp_path / "log")


def test_environment_and_folder(start: Start, tmp_path: Path) -> None:
    process = start(
        "import os; print(os.environ['MARK'], os.getcwd(), flush=True); __import__('time').sleep(600)",
        env={"MARK": "x"},
        cwd=tmp_path,
    )
    assert said(process) == f"x {tmp_path}"


@pytest.mark.parametrize("at_once", [True, False])
def test_a_child_dies_with_its_parent(start: Start, tmp_path: Path, at_once: bool) -> None:
    """At once: before the child has told the kernel that it wants to."""
    child_log = tmp_path / "c"
    code = f"""
import sys, time
from pathlib import Path
from serving.local.process import Process
child = Process.start("c", [sys.executable, "-c", {SLEEP!r}], log_file=Path({str(child_log)!r}), die_with_parent=True)
print(child.pid, flush=True)
time.sleep(600)
"""
    parent = start(code, cwd=Path(__file__).parents[3])
    child = int(said(parent))
    if not at_once:
        parent.wait_ready(lambda: child_log.read_text() == "up\n", timeout_s=120)
        assert runs(child)
    os.kill(parent.pid, signal.SIGKILL)
    wait_gone(child)


def test_log_tail(tmp_path: Path) -> None:
    path = tmp_path / "log"
    assert log_tail(path) == ""
    path.write_text("".join(f"line {number}\n" for number in range(1000)))
    assert log_tail(path, max_bytes=20) == "line 998\nline 999"


def test_free_ports_differ_and_are_not_of_the_ephemeral_range() -> None:
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    tried = [free_ports(20) for _ in range(3)]
    for ports in tried:
        assert len(set(ports)) == 20
        assert all(not low <= port <= high for port in ports)
    # Somebody else on the machine may take one meanwhile.
    assert any(all(is_free(port) for port in ports) for ports in tried)
