"""Batch inference: rows of pipelines, and files of requests, with what online traffic leaves free.

See docs/design/0022-batch.md.
"""
