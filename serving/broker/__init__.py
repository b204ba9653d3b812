"""Brokers: requests that wait until replicas ask for them. See docs/design/0021-brokers.md."""
