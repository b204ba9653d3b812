"""Brokers: keep requests on disk, hand them to replicas that ask for work, keep the results. See 0021-brokers.md."""
