"""Traffic with known answers: requests for the digits model, each answer checked, every failure kept."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from examples.digits.data import load_split
from serving import Connection, MeshClient
from serving.errors import MeshError
from serving.sdk import ClientConfig
from tests.support.callers import Callers

PAUSE_S: Final = 0.01


@dataclass
class Outcome:
    """What came back so far. `at_s` are monotonic times of right answers."""

    right: int = 0
    wrong: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    at_s: list[float] = field(default_factory=list)

    def longest_gap_s(self) -> float:
        """The longest time without a right answer."""
        times = np.array(self.at_s)
        return float(np.max(np.diff(times))) if len(times) > 1 else float("inf")


class Traffic(Callers):
    """Sends requests from `threads` threads through the SDK while it is entered."""

    def __init__(
        self,
        connection: Connection,
        expected: list[int],
        *,
        threads: int = 2,
        timeout_s: float = 60.0,
        application: str = "digits",
        via: str = "direct",
    ) -> None:
        super().__init__(threads)
        self.outcome = Outcome()
        self._connection = connection
        self._expected = expected
        self._timeout_s = timeout_s
        self._application = application
        self._config = ClientConfig(via=via)
        self._images = load_split().held_out_images

    def __enter__(self) -> Traffic:
        super().__enter__()
        self.wait_for(20)
        return self

    def wait_for(self, more: int, timeout_s: float = 120.0) -> None:
        """Returns when `more` further right answers have come. Raises `AssertionError` when they do not."""
        wanted = self.outcome.right + more
        deadline = time.monotonic() + timeout_s
        while self.outcome.right < wanted:
            if time.monotonic() > deadline:
                raise AssertionError(f"only {self.outcome.right} of {wanted} right answers; {self.outcome.failed[-3:]}")
            time.sleep(0.02)

    def check(self) -> None:
        """Raises `AssertionError` unless every request so far was answered, and answered right."""
        assert not self.outcome.failed, f"{len(self.outcome.failed)} failed, first: {self.outcome.failed[:3]}"
        assert not self.outcome.wrong, f"{len(self.outcome.wrong)} wrong, first: {self.outcome.wrong[:3]}"
        assert self.outcome.right > 0

    def call(self, number: int) -> None:
        with MeshClient(self._connection, client_config=self._config) as client:
            index = number * 37
            while not self.over.wait(PAUSE_S):
                self._ask(client, index % len(self._images))
                index += 1

    def _ask(self, client: MeshClient, index: int) -> None:
        image = self._images[index : index + 1]
        try:
            answer = client.infer(self._application, "digits", {"image": image}, timeout_s=self._timeout_s)
        except MeshError as error:
            with self.lock:
                self.outcome.failed.append(f"{type(error).__name__}: {error}")
            return
        found = int(answer["probabilities"].argmax(axis=1)[0])
        with self.lock:
            if found == self._expected[index]:
                self.outcome.right += 1
                self.outcome.at_s.append(time.monotonic())
            else:
                self.outcome.wrong.append(f"image {index}: {found}, not {self._expected[index]}")
