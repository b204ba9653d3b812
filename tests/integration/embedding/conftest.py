"""One replica of the packaged model in discovery, with a gateway and a gRPC proxy in front of it."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from serving.embedding.openvino_embedder import EmbedderOptions, OpenVinoEmbedder
from serving.local.etcd import EtcdCluster
from tests.integration.proxy.proxy_harness import Proxy, proxy_config
from tests.support.etcd_server import running_etcd
from tests.support.llm_serving import EmbeddingProcess, GatewayProcess, embedding_config

MODEL = "all-minilm"


@pytest.fixture(scope="package")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdCluster]:
    with running_etcd(tmp_path_factory.mktemp("etcd")) as running:
        yield running


@pytest.fixture(scope="package")
def replica(tmp_path_factory: pytest.TempPathFactory, etcd: EtcdCluster) -> Iterator[EmbeddingProcess]:
    config = embedding_config(etcd=etcd.config(), model=MODEL)
    running = EmbeddingProcess(tmp_path_factory.mktemp("replica"), config)
    try:
        running.wait_state("ready", registered=True)
        yield running
    finally:
        running.end()


@pytest.fixture(scope="package")
def gateway(tmp_path_factory: pytest.TempPathFactory, etcd: EtcdCluster) -> Iterator[GatewayProcess]:
    running = GatewayProcess(tmp_path_factory.mktemp("gateway"), etcd.config(), leave_s=0.0)
    yield running
    running.end()


@pytest.fixture(scope="package")
def proxy(tmp_path_factory: pytest.TempPathFactory, etcd: EtcdCluster) -> Iterator[Proxy]:
    changes = {"application": "texts", "etcd": {"endpoints": list(etcd.config().endpoints)}}
    with Proxy(tmp_path_factory.mktemp("proxy"), proxy_config(**changes)) as running:
        yield running


@pytest.fixture(scope="package")
def reference() -> OpenVinoEmbedder:
    """The model as published."""
    return OpenVinoEmbedder(EmbedderOptions(int8=False))


@pytest.fixture
def client(replica: EmbeddingProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{replica.url}/v1", api_key="none", max_retries=0, timeout=60) as made:
        yield made
