"""Which row goes next to whom."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from serving.batch.rows.memo import Memo
from serving.batch.rows.waiting import Row, Waiting


def row(name: str, expected: float = 1.0, prefix: bytes = b"") -> Row[str, str]:
    return Row(name, expected, prefix)


def test_the_longest_goes_first_and_equal_ones_as_they_came() -> None:
    waiting: Waiting[str, str] = Waiting()
    for name, expected in (("a", 5), ("b", 100), ("c", 5), ("d", 20)):
        waiting.add(row(name, expected))
    assert [waiting.take("x") for _ in range(5)] == ["b", "d", "a", "c", None]


def test_short_rows_do_not_wait_for_ever() -> None:
    waiting: Waiting[str, str] = Waiting(tranche=4)
    waiting.add(row("short", 1))
    for number in range(10):
        waiting.add(row(f"long{number}", 100))
    assert "short" in [waiting.take("x") for _ in range(4)]


def test_rows_that_begin_alike_go_to_one_endpoint_one_after_the_other() -> None:
    waiting: Waiting[str, str] = Waiting()
    for number in range(4):
        waiting.add(row(f"p{number}", 10, b"p"))
        waiting.add(row(f"q{number}", 9, b"q"))
    taken = [(endpoint, waiting.take(endpoint)) for _ in range(4) for endpoint in ("x", "y")]
    assert {name for endpoint, name in taken if endpoint == "x"} == {"p0", "p1", "p2", "p3"}
    assert {name for endpoint, name in taken if endpoint == "y"} == {"q0", "q1", "q2", "q3"}


def test_rows_that_come_later_go_where_their_beginning_is() -> None:
    waiting: Waiting[str, str] = Waiting()
    waiting.add(row("p0", 1, b"p"))
    assert waiting.take("x") == "p0"
    waiting.add(row("p1", 100, b"p"))
    waiting.add(row("other", 1))
    assert waiting.take("y") == "other"
    assert waiting.take("x") == "p1"


def test_who_has_nothing_helps_where_most_is_left() -> None:
    waiting: Waiting[str, str] = Waiting()
    for number in range(5):
        waiting.add(row(f"p{number}", 1, b"p"))
    assert waiting.take("x") == "p0"
    assert waiting.take("y") == "p1"


def test_rows_of_an_endpoint_that_has_left_are_anybodys() -> None:
    waiting: Waiting[str, str] = Waiting()
    for number in range(3):
        waiting.add(row(f"p{number}", 1, b"p"))
    assert waiting.take("x") == "p0"
    waiting.left("x")
    waiting.add(row("z", 50))
    assert [waiting.take("y") for _ in range(3)] == ["z", "p1", "p2"]


def test_what_failed_goes_first_and_elsewhere() -> None:
    waiting: Waiting[str, str] = Waiting()
    waiting.add(row("long", 100))
    failed = row("failed", 1)
    failed.tried.add("x")
    waiting.again(failed)
    assert waiting.take("x") == "long"
    assert waiting.take("x") is None
    assert waiting.take("y") == "failed"
    waiting.again(failed)
    assert waiting.take("x", alone=True) == "failed"
    waiting.again(failed)
    waiting.forgive({"x"})
    assert waiting.take("x") == "failed"


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 50), st.sampled_from([b"", b"p", b"q", b"r"])),
        st.tuples(st.just("take"), st.sampled_from(["x", "y", "z"]), st.booleans()),
        st.tuples(st.just("left"), st.sampled_from(["x", "y", "z"]), st.none()),
        st.tuples(st.just("again"), st.sampled_from(["x", "y", "z"]), st.none()),
    ),
    max_size=120,
)


@given(OPERATIONS, st.integers(1, 8))
def test_every_row_is_taken_once_whatever_happens(operations: list[tuple], tranche: int) -> None:  # type: ignore[type-arg]
    waiting: Waiting[int, str] = Waiting(tranche=tranche, homes=2)
    added, taken = 0, []
    for kind, what, more in operations:
        if kind == "add":
            waiting.add(Row(added, float(what), more))
            added += 1
        elif kind == "again":
            waiting.again(Row(added, 1.0, b"", {what}))
            added += 1
        elif kind == "left":
            waiting.left(what)
        else:
            before = len(waiting)
            found = waiting.take(what, alone=more)
            assert (found is None) == (len(waiting) == before)
            taken += [] if found is None else [found]
    assert len(waiting) == added - len(taken)
    for endpoint in ("x", "y", "z"):
        while (found := waiting.take(endpoint, alone=True)) is not None:
            taken.append(found)
    assert Counter(taken) == Counter(range(added))


@given(st.lists(st.tuples(st.binary(max_size=1), st.integers(0, 20)), max_size=60))
def test_kept_answers_are_the_newest_within_the_bytes(puts: list[tuple[bytes, int]]) -> None:
    memo: Memo[int] = Memo(40)
    for number, (key, size) in enumerate(puts):
        memo.put(key, number, size)
        assert memo.get(key) == number
    kept = [key for key in {key for key, _ in puts} if memo.get(key) is not None]
    sizes = dict(puts)
    assert sum(sizes[key] for key in kept) <= 40


def test_an_answer_larger_than_all_may_be_is_not_kept() -> None:
    memo: Memo[int] = Memo(10)
    memo.put(b"a", 1, 11)
    assert memo.get(b"a") is None
