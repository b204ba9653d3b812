"""What every process says of itself: logs and numbers."""

from serving.observe.logging import configure_logging, get_logger, log_fields
from serving.observe.metrics import LATENCY_BUCKETS_S, ControllerCollector, MetricsServer, new_registry

__all__ = [
    "LATENCY_BUCKETS_S",
    "ControllerCollector",
    "MetricsServer",
    "configure_logging",
    "get_logger",
    "log_fields",
    "new_registry",
]
