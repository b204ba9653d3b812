"""The model as shipped, and the same as published (float); each loaded once."""

from __future__ import annotations

import pytest

from serving.embedding.openvino_embedder import EmbedderOptions, OpenVinoEmbedder


@pytest.fixture(scope="session")
def embedder() -> OpenVinoEmbedder:
    return OpenVinoEmbedder()


@pytest.fixture(scope="session")
def reference() -> OpenVinoEmbedder:
    return OpenVinoEmbedder(EmbedderOptions(int8=False))
