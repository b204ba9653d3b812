"""Texts to vectors: all-MiniLM-L6-v2 on OpenVINO by default, batched."""
