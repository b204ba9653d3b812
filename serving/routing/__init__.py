"""Pure choices: which endpoint, which are out for a while, how many retries. No I/O; time is an argument."""

from serving.routing.outliers import OutlierConfig, OutlierDetector
from serving.routing.power_of_two import Candidate, LatencyTracker, PowerOfTwo, Rank, better, prefer_labels
from serving.routing.retry_budget import RetryBudget, RetryBudgetConfig

__all__ = [
    "Candidate",
    "LatencyTracker",
    "OutlierConfig",
    "OutlierDetector",
    "PowerOfTwo",
    "Rank",
    "RetryBudget",
    "RetryBudgetConfig",
    "better",
    "prefer_labels",
]
