"""The file store: content of uploaded and made files below one URL, their records in etcd.

See docs/design/0022-batch.md.
"""
