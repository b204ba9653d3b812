"""Batch inference: models over many rows, on what online traffic leaves free. See docs/design/0022-batch.md."""
