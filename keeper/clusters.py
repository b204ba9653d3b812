"""Which clusters are alive, silent or gone. Pure: time is an argument (unix seconds).

A record that is missing says that its agent's lease ran out, or that the store lost it, or that the agent had no
store to renew it in. Only the first means that the cluster is gone, so conclusions wait: `grace_s` always, and until
`hold` ends after anything that makes missing records suspicious.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from keeper.placement import ClusterState, Liveness
from serving._proto import records_pb2 as pb


@dataclass(slots=True)
class _Seen:
    record: pb.ClusterRecord
    last_seen_s: float
    missing_since_s: float | None = None


@dataclass(slots=True)
class ClusterBook:
    """Every cluster that was seen, with its last record."""

    grace_s: float
    _seen: dict[str, _Seen] = field(default_factory=dict)
    _hold_until_s: float = 0.0

    def seen(self, record: pb.ClusterRecord, now_s: float) -> None:
        """The cluster's record is in the store."""
        self._seen[record.name] = _Seen(record, now_s)

    def missing(self, name: str, now_s: float) -> None:
        """The cluster's record is not in the store (any more)."""
        known = self._seen.get(name)
        if known is not None and known.missing_since_s is None:
            known.missing_since_s = now_s

    def expected(self, name: str, now_s: float) -> None:
        """Something says that this cluster exists (a work order), though no record of it was ever seen."""
        if name not in self._seen:
            self._seen[name] = _Seen(pb.ClusterRecord(name=name), 0.0, now_s)

    def hold(self, until_s: float) -> None:
        """No cluster counts as gone before `until_s`."""
        self._hold_until_s = max(self._hold_until_s, until_s)

    def forget(self, name: str) -> None:
        """Nothing refers to the cluster any more."""
        self._seen.pop(name, None)

    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self._seen))

    def liveness(self, name: str, now_s: float) -> Liveness:
        known = self._seen.get(name)
        if known is None:
            return Liveness.GONE if now_s >= self._hold_until_s else Liveness.SILENT
        if known.missing_since_s is None:
            return Liveness.ALIVE
        return Liveness.GONE if now_s >= self._gone_at(known.missing_since_s) else Liveness.SILENT

    def states(self, now_s: float) -> tuple[ClusterState, ...]:
        """All of them, sorted by name."""
        return tuple(ClusterState(self._seen[name].record, self.liveness(name, now_s)) for name in self.names())

    def last_seen_s(self, name: str) -> float:
        """When its record was last in the store; 0: never."""
        known = self._seen.get(name)
        return known.last_seen_s if known else 0.0

    def touch(self, now_s: float) -> None:
        """The view is fresh: every record that is not missing was seen now."""
        for known in self._seen.values():
            if known.missing_since_s is None:
                known.last_seen_s = now_s

    def next_change_s(self, now_s: float) -> float | None:
        """When the next silent cluster becomes a gone one; None when none is silent."""
        times = [
            self._gone_at(known.missing_since_s) for known in self._seen.values() if known.missing_since_s is not None
        ]
        return min((time for time in times if time > now_s), default=None)

    def _gone_at(self, missing_since_s: float) -> float:
        return max(missing_since_s + self.grace_s, self._hold_until_s)
