"""Who is next for one deployment: classes with ageing, fairness between tenants, deadlines, shares of long and short
items. Pure: no clock, no I/O; `now` is an argument everywhere. See docs/design/0021-brokers.md."""

from serving.broker.queue.items import DEFAULT, HIGH, LOW, QueueSettings, Waiting
from serving.broker.queue.waiting_queue import WaitingQueue

__all__ = ["DEFAULT", "HIGH", "LOW", "QueueSettings", "Waiting", "WaitingQueue"]
