"""Pauses before what ended is started again, and who keeps to them."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from serving.errors import FailedPrecondition
from serving.local.etcd import EtcdCluster
from serving.local.options import UpOptions
from serving.local.restart_pauses import LONGEST_PAUSE_S, RestartPauses
from serving.local.supervisor import Supervisor


def test_pauses_grow_and_begin_anew_after_a_quiet_minute() -> None:
    pauses, now_s, seen = RestartPauses(), 100.0, []
    for _ in range(9):
        pauses.started(now_s)
        assert not pauses.over(now_s + 1000)  # it runs
        assert pauses.ended(now_s)
        assert not pauses.ended(now_s)
        pause_s = next(step / 2 for step in range(200) if pauses.over(now_s + step / 2))
        seen.append(pause_s)
        now_s += pause_s
    assert seen == [0.5, 1, 2, 4, 8, 16, 30, 30, LONGEST_PAUSE_S]
    pauses.started(now_s)
    assert pauses.ended(now_s + 61)
    assert pauses.over(now_s + 61.5)


class Member:
    """An etcd that ends at once, or cannot be started at all."""

    def __init__(self, *, startable: bool) -> None:
        self.launched_s: list[float] = []
        self.now_s = 0.0
        self.process = SimpleNamespace(running=lambda: False, exit_status=lambda: 1, identity=None)
        self.log_file = Path("/nowhere/etcd.log")
        self._startable = startable

    def launch(self) -> None:
        self.launched_s.append(self.now_s)
        if not self._startable:
            raise FailedPrecondition("no etcd here")


@pytest.mark.parametrize("startable", [True, False])
def test_etcd_is_started_again_with_growing_pauses(
    startable: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = Supervisor(UpOptions(tmp_path), lambda _: None)
    member = Member(startable=startable)
    supervisor._etcd = cast(EtcdCluster, SimpleNamespace(members=[member]))
    with caplog.at_level(logging.ERROR):
        for tick in range(200):  # 100 s
            member.now_s = tick / 2
            supervisor._watch_etcd(member.now_s)
    pauses = [later - earlier for earlier, later in zip(member.launched_s, member.launched_s[1:], strict=False)]
    assert len(member.launched_s) < 10
    assert pauses == sorted(pauses)
    assert pauses[-1] >= 16
    messages = {record.getMessage() for record in caplog.records}
    assert messages == {"etcd ended and is started again"} | (set() if startable else {"etcd cannot be started"})
    keys: dict[str, Any] = vars(caplog.records[0])
    assert (keys["status"], keys["log_file"]) == (1, "/nowhere/etcd.log")
