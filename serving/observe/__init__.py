"""What every process says of itself: logs and numbers."""

from serving.observe.client import ClientCollector
from serving.observe.logging import configure_logging, get_logger, log_fields
from serving.observe.metrics import (
    LATENCY_BUCKETS_S,
    ControllerCollector,
    MetricsServer,
    new_registry,
    reached_by,
    serve_collector,
)

__all__ = [
    "LATENCY_BUCKETS_S",
    "ClientCollector",
    "ControllerCollector",
    "MetricsServer",
    "configure_logging",
    "get_logger",
    "log_fields",
    "new_registry",
    "reached_by",
    "serve_collector",
]
