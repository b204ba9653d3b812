"""Callbacks: what is POSTed when an item has ended. See docs/design/0021-brokers.md."""
