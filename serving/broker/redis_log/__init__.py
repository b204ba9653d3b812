"""Journals that brokers of several nodes can take over: Redis Streams keep them, a file on the node is their index."""
