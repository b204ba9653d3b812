"""Requests that wait at brokers, over HTTP. Design: docs/design/0021-brokers.md."""
