"""An etcd, a real replica of the tiny chat model, and HTTP proxies; shared by the tests of the module."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from serving.local.etcd import EtcdCluster
from tests.support.llm_serving import HttpProxyProcess, LlmProcess, http_proxy_config, llm_config

StartProxy: TypeAlias = Callable[..., HttpProxyProcess]
OTHER_MODEL = "other-chat"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("replicas")


@pytest.fixture(scope="module")
def replicas(folder: Path, etcd: EtcdCluster) -> Iterator[tuple[LlmProcess, LlmProcess]]:
    """Of the applications `chat` and `other`, which serve models of different names. Their leases outlive an etcd that
    hangs for as long as a busy machine needs to start a process: they stay in discovery."""
    settings = (
        llm_config(folder, etcd=etcd.config()),
        llm_config(folder, name="chat-r1-1", etcd=etcd.config(), application="other", model=OTHER_MODEL),
    )
    with ExitStack() as stack:
        for config in settings:
            config.lease_ttl_s = 300
        own, other = (LlmProcess(folder, config) for config in settings)
        stack.callback(own.end)
        stack.callback(other.end)
        for replica in (own, other):
            replica.wait_state("ready", registered=True)
        yield own, other


@pytest.fixture
def start_proxy(folder: Path, etcd: EtcdCluster) -> Iterator[StartProxy]:
    """Starts proxies, and waits until they are in discovery unless `wait` is False."""
    with ExitStack() as stack:

        def start(*, wait: bool = True, **changes: Any) -> HttpProxyProcess:
            name = f"http-r1-{next(_NUMBERS)}"
            proxy = HttpProxyProcess(folder, http_proxy_config(name=name, etcd=etcd.config(), **changes))
            stack.callback(proxy.end)
            if wait:
                proxy.wait_state("ready", registered=True)
            return proxy

        yield start


_NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def proxy(folder: Path, etcd: EtcdCluster, replicas: tuple[LlmProcess, LlmProcess]) -> Iterator[HttpProxyProcess]:
    """That of the application `chat`, which no test ends."""
    assert all(replica.report.registered for replica in replicas)
    running = HttpProxyProcess(folder, http_proxy_config(name="http-r1-shared", etcd=etcd.config()))
    running.wait_state("ready", registered=True)
    yield running
    running.end()
