"""Threads that ask for as long as a test wants."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import TypeVar

Entered = TypeVar("Entered", bound="Callers")


class Callers(ABC):
    """Runs `call` in each of its threads while it is entered."""

    def __init__(self, threads: int) -> None:
        self.over = threading.Event()
        self.lock = threading.Lock()
        self._threads = [threading.Thread(target=self.call, args=(number,), daemon=True) for number in range(threads)]

    @abstractmethod
    def call(self, number: int) -> None:
        """What the thread of that number does until `over` is set."""

    def __enter__(self: Entered) -> Entered:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self._threads:
            thread.join()
