"""Files and batches over HTTP: `/v1/files`, `/v1/batches`. See docs/design/0022-batch.md."""
