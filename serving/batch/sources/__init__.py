"""Where a job's rows come from."""

from __future__ import annotations

from serving.batch.sources.base import Source
from serving.batch.sources.folder import FolderSource
from serving.batch.sources.iceberg import IcebergSource
from serving.batch.sources.kafka import KafkaSource
from serving.batch.sources.lines import CsvSource, JsonlSource
from serving.batch.sources.parquet import ParquetSource

__all__ = ["CsvSource", "FolderSource", "IcebergSource", "JsonlSource", "KafkaSource", "ParquetSource", "Source"]
