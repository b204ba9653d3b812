"""Proxies and servers that are ended whatever a test did to them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the harnesses beside this file and those of the SDK's tests
sys.path.insert(0, str(Path(__file__).parents[1] / "sdk"))

from proxy_harness import Proxy, proxy_binary, proxy_config
from sdk_harness import replicas as replicas  # a fixture

StartProxy: TypeAlias = Callable[..., Proxy]


@pytest.fixture
def start_proxy(tmp_path: Path) -> Iterator[StartProxy]:
    """Starts proxies, with changes of their configuration."""
    if not proxy_binary().exists():
        pytest.fail(f"{proxy_binary()} is missing; run `make setup`, or set MESH_BUILD_DIR")
    with ExitStack() as stack:
        count = 0

        def start(*endpoints: str, **changes: Any) -> Proxy:
            nonlocal count
            count += 1
            return stack.enter_context(Proxy(tmp_path / f"proxy{count}", proxy_config(endpoints, **changes)))

        yield start
