"""Which broker of an application is given a request. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from serving._proto import broker_pb2 as bpb
from serving._proto import records_pb2 as pb
from serving.broker.pulled import takes
from serving.errors import DeadlineExceeded, Unavailable
from serving.store.keys import AppKey


@dataclass(frozen=True, slots=True)
class Choice:
    """Who may be given a request: one that serves all of `bound`; where there is one, not one that was `left`, nor
    one that is drained: it has said so, or its record does. That counts for a request that is `anew`, which nobody can
    have: its key was made for it.
    """

    bound: frozenset[str]
    left: set[str]
    drained: set[str]
    anew: bool

    def among(self, taking: Iterable[pb.Endpoint]) -> list[pb.Endpoint]:
        able = [one for one in taking if self.bound <= set(one.journals)]
        able = [one for one in able if one.id not in self.drained] or able
        able = [one for one in able if not (one.drained and self.anew)] or able
        return [one for one in able if one.id not in self.left] or able


def check_any_takes(brokers: Iterable[pb.Endpoint], drained: set[str], app: AppKey, deployment: str) -> None:
    """Raises `Unavailable` when all brokers of the deployment are drained."""
    if all(one.id in drained for one in brokers if takes(one.before, deployment)):
        raise Unavailable(
            f"every broker of {app} that takes requests for {deployment} is drained: undo it with `mesh queue drain "
            f"{app} --undo`, or submit later"
        )


def uncertain(app: AppKey, request: bpb.SubmitRequest) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"no broker of {app} has answered in time, and one may have taken the request; submit it again with "
        f"idempotency_key={request.idempotency_key!r} to get its ticket"
    )
