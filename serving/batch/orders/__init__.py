"""What a batch's records in etcd come to, their reading and their writing. See docs/design/0022-batch.md."""
