"""Callers of a proxy that never stop."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
from proxy_harness import Proxy, infer, who

from tests.support.waiting import eventually


class Traffic:
    """Threads that ask one request after the other."""

    def __init__(self, proxy: Proxy) -> None:
        self.answers: Counter[str] = Counter()
        self.errors: list[str] = []
        self._proxy = proxy
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.is_set():
            try:
                name = who(self._proxy.stub.ModelInfer(infer(), timeout=100))
            except grpc.RpcError as error:
                self.errors.append(f"{error.code()}: {error.details()}")
                self._over.wait(0.05)
            else:
                self.answers[name] += 1

    def stop(self) -> None:
        self._over.set()

    def more(self, count: int, of: str) -> None:
        """Waits for so many further answers of one replica."""
        before = self.answers[of]
        eventually(lambda: self.answers[of] >= before + count, timeout_s=90, what=f"{count} more of {of}")


@contextmanager
def traffic(proxy: Proxy, callers: int = 8) -> Iterator[Traffic]:
    made = Traffic(proxy)
    threads = [threading.Thread(target=made.run) for _ in range(callers)]
    for thread in threads:
        thread.start()
    try:
        yield made
    finally:
        made.stop()
        for thread in threads:
            thread.join()
