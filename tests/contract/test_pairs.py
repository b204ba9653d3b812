"""A `tritonserver` that ends in the middle of a comparison: both start anew and are asked again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from google.protobuf.message import Message

from tests.contract.corpus_control import unload
from tests.contract.corpus_infer import numbers
from tests.contract.exchange import differences, infer, one, send
from tests.contract.pairs import Pair, start_pair
from tests.integration.ingress.kserve_models import pair as same_tensors
from tests.integration.ingress.kserve_models import write_model

WARNS = "ignore:tritonserver ended"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("pairs")
    for name in ("kept", "left"):
        write_model(folder / "models", name, same_tensors("FP32", "[-1]"))
    with start_pair(folder, folder / "models") as pair:
        yield pair


def _kill(pair: Pair) -> None:
    pair.theirs.process.kill()
    pair.theirs.process.wait()


@pytest.mark.filterwarnings(WARNS)
def test_it_ends_within_a_case(small: Pair) -> None:
    kills = [1]

    def killing(message: Message) -> Message:
        if kills:
            kills.pop()
            _kill(small)
        return message

    ask = infer(numbers("kept", [1]))
    assert not differences(small, one("", infer(numbers("kept", [1]), view=killing), ask))
    assert not kills


@pytest.mark.filterwarnings(WARNS)
def test_what_a_case_builds_on_is_done_again(small: Pair) -> None:
    before = [one("unloads", unload("left"))]
    assert not differences(small, before[0])
    _kill(small)
    ask = infer(numbers("left", [1]))
    assert not differences(small, one("asks", ask), before)
    assert send(small.ours, ask).code != "OK"


def test_one_that_always_ends_is_told(small: Pair) -> None:
    def killing(message: Message) -> Message:
        _kill(small)
        return message

    with pytest.warns(UserWarning, match="tritonserver ended"):
        found = differences(small, one("", infer(numbers("kept", [1]), view=killing), infer(numbers("kept", [1]))))
    assert "UNAVAILABLE" in found[0]
