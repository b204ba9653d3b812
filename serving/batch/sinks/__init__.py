"""Where a job's results go."""

from __future__ import annotations

from serving.batch.sinks.base import Publication, Sink
from serving.batch.sinks.iceberg import IcebergSink
from serving.batch.sinks.lines import CsvSink, JsonlSink
from serving.batch.sinks.parquet import ParquetSink

__all__ = ["CsvSink", "IcebergSink", "JsonlSink", "ParquetSink", "Publication", "Sink"]
