"""Pure choices: which endpoint, which are out for a while, how many retries. No I/O; time is an argument.

`cpp_ext/routing` is the same in C++; `tests/contract/routing` holds the cases that both must pass.
"""

from serving.routing.least_latency import LeastLatency
from serving.routing.model_route import ModelRoute, WeightedModel
from serving.routing.outliers import OutlierConfig, OutlierDetector
from serving.routing.policy import RoutingPolicy
from serving.routing.power_of_two import Candidate, LatencyTracker, PowerOfTwo, Rank, better, prefer_labels
from serving.routing.rendezvous import RendezvousMember, rendezvous_best, rendezvous_order, stable_hash
from serving.routing.retry_budget import RetryBudget, RetryBudgetConfig
from serving.routing.traffic import NO_SIDES, Place, Sides, Traffic

__all__ = [
    "NO_SIDES",
    "Candidate",
    "LatencyTracker",
    "LeastLatency",
    "ModelRoute",
    "OutlierConfig",
    "OutlierDetector",
    "Place",
    "PowerOfTwo",
    "Rank",
    "RendezvousMember",
    "RetryBudget",
    "RetryBudgetConfig",
    "RoutingPolicy",
    "Sides",
    "Traffic",
    "WeightedModel",
    "better",
    "prefer_labels",
    "rendezvous_best",
    "rendezvous_order",
    "stable_hash",
]
