"""What the chaos test of queues promises of its strikes."""

from __future__ import annotations

from typing import cast

import pytest

from tests.support import queue_chaos
from tests.support.queue_chaos import Chaos, Victims
from tests.support.waiting import eventually


class Noted:
    def __init__(self) -> None:
        self.names = {kind: [f"{kind}-{number}" for number in range(4)] for kind in ("broker", "etcd", "replica")}
        self.killed: list[str] = []
        self.launched: list[str] = []
        self.back = True

    def kill(self, name: str) -> None:
        self.killed.append(name)

    def launch(self, name: str) -> None:
        self.launched.append(name)

    def is_back(self, _name: str) -> bool:
        return self.back


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_chaos, "_GONE_S", (0.0, 0.001))


@pytest.mark.parametrize("seed", range(20))
def test_the_first_strikes_hit_each_kind_and_all_come_back(seed: int) -> None:
    noted = Noted()
    with Chaos(cast("Victims", noted), seed, pause_s=0.001) as chaos:
        eventually(lambda: chaos.each_kind, timeout_s=60, what="each kind was killed")
    kinds = list(dict.fromkeys(name.partition("-")[0] for name in noted.killed))
    assert sorted(kinds) == sorted(noted.names)
    first = [noted.killed.index(next(name for name in noted.killed if name.startswith(kind))) for kind in kinds]
    assert first[-1] <= 2 * 4, "one strike each, of all of a kind at most"
    assert noted.killed == noted.launched


def test_a_strike_waits_for_what_was_killed_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_chaos, "_TOO_EARLY", 0.0)
    noted = Noted()
    noted.back = False
    with Chaos(cast("Victims", noted), 1, pause_s=0.0) as chaos:
        eventually(lambda: noted.launched, timeout_s=60, what="the first strike")
        assert not chaos.each_kind
        noted.back = True
        eventually(lambda: chaos.each_kind, timeout_s=60, what="the others")
    noted.back = False
    with Chaos(cast("Victims", noted), 1, pause_s=0.0):
        pass  # the end does not wait for it


def test_what_ends_the_strikes_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise ValueError("it cannot be killed")

    noted = Noted()
    monkeypatch.setattr(noted, "kill", fails)
    with pytest.raises(ValueError, match="it cannot be killed"), Chaos(cast("Victims", noted), 1, pause_s=0.0) as chaos:
        eventually(lambda: chaos.each_kind, timeout_s=60, what="each kind was killed")
