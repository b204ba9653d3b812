"""Texts to vectors: all-MiniLM-L6-v2 on OpenVINO by default, batched; a library, and replicas that serve it.

Design: docs/design/0020-embeddings.md; how to use it: docs/guides/embeddings.md.
"""
