"""Each guard by a table of what it refuses and lets pass; properties for all of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from serving.cache.features import canonical
from serving.cache.guards import GUARDS, refusal
from serving.cache.numbers import spoken

REFUSED = [
    ("numbers", "Convert 5 kg to pounds", "Convert 50 kg to pounds"),
    ("numbers", "What is the third planet?", "What is the fourth planet?"),
    ("numbers", "Bake it for twenty-five minutes?", "Bake it for thirty-five minutes?"),
    ("numbers", "What happened on 2024-05-01?", "What happened on 2024-06-01?"),
    ("numbers", "Is Python 3.10 supported?", "Is Python 3.1 supported?"),
    ("numbers", "What is 5% of 80?", "What is 5% of 90?"),
    ("numbers", "Is half a tablet enough?", "Is a tablet enough?"),
    ("negation", "Is it safe to drink?", "Is it unsafe to drink?"),
    ("negation", "Which foods contain gluten?", "Which foods do not contain gluten?"),
    ("negation", "Why does it work?", "Why doesn't it work?"),
    ("negation", "Is the drug legal?", "Is the drug illegal?"),
    ("negation", "Is it possible to fail?", "Is it impossible to fail?"),
    ("negation", "Is this useful?", "Is this useless?"),
    ("negation", "Can I eat but not drink?", "Can I drink but not eat?"),
    ("names", "Who leads the company in Austria?", "Who leads the company in Australia?"),
    ("numbers", "Is GPT-4 good?", "Is GPT-5 good?"),
    ("names", "Is the iPhone good?", "Is the Pixel good?"),
    ("exact", "What does `ls -l` do?", "What does `ls -a` do?"),
    ("exact", "Open https://a.example/x please", "Open https://a.example/y please"),
    ("exact", "What is in /etc/hosts here?", "What is in /etc/passwd here?"),
    ("exact", 'Who said "to be"?', 'Who said "not to be"?'),
    ("opposites", "Which has more sugar?", "Which has less sugar?"),
    ("opposites", "Take it before meals?", "Take it after meals?"),
    ("opposites", "What is the minimum wage?", "What is the maximum wage?"),
    ("opposites", "Who was the first king?", "Who was the last king?"),
    ("opposites", "How do I increase the limit?", "How do I decrease the limit?"),
    ("direction", "flights from Paris to London", "flights from London to Paris"),
    ("direction", "How do I get to Paris?", "How do I get from Paris?"),
    ("direction", "Is it in the fridge?", "Is it on the fridge?"),
    ("direction", "May I take aspirin and ibuprofen?", "May I take aspirin or ibuprofen?"),
    ("direction", "Is Mars bigger than Venus?", "Is Venus bigger than Mars?"),
    ("direction", "Does a dog chase a cat?", "Does a cat chase a dog?"),
    ("direction", "Was the car hit by the bus?", "Was the bus hit by the car?"),
    ("question", "Who discovered penicillin?", "When was it that someone discovered penicillin?"),
    ("question", "How many people live there?", "How long do people live there?"),
    ("question", "Should I buy the house?", "Can I buy the house?"),
    ("question", "Where is the meeting?", "When is the meeting?"),
    ("tense", "Who is the queen of Spain?", "Who was the queen of Spain?"),
    ("person", "Can I pay by card?", "Can you pay by card?"),
    ("person", "Does he love her?", "Does she love him?"),
    ("person", "What is my balance?", "What is a balance?"),
    ("tense", "Should I invest in gold?", "Should I have invested in gold?"),
    ("content", "Who wrote Hamlet?", "Who wrote about Hamlet?"),
    ("direction", "What causes rain?", "What does rain cause?"),
    ("direction", "What eats sharks?", "What do sharks eat?"),
    ("direction", "Who do you love?", "Who loves you?"),
    ("person", "What is your opinion?", "What is her opinion?"),
    ("length", "Summarise this", "Summarise this: " + "and then the man went over the hill " * 5),
    ("language", "What is inflation?", "Что такое инфляция?"),
    ("language", "Who is the president of the club?", "Wer ist der Präsident und wo ist der Club?"),
    ("content", "Can I feed grapes to my dog?", "Can I feed raspberries to my dog?"),
    ("content", "How do I renew a passport?", "How do I renew a child passport?"),
    ("content", "who am i", "who are you"),
    ("content", "What is the capital of France?", "What is the old capital of France?"),
    ("content", "What did the president say?", "What did the president show?"),
    ("content", "Explain temperature", "Explain mean temperature"),
    ("content", "Do horses eat people?", "Do horses eat?"),
    ("content", "What do lions like?", "What do lions want?"),
]
PASSED = [
    ("How do I reset my password?", "What is the way to reset my password?"),
    ("What is the capital of France?", "can you tell me the capital of France"),
    ("What is France's capital?", "What is the capital of France?"),
    ("How many days are in 3 weeks?", "How many days are in three weeks?"),
    ("What is 1,000 plus 2?", "What is 1000 plus 2?"),
    ("In Python, how do I sort a list?", "How do I sort a list in Python?"),
    ("I'd like to know how to cook rice, please", "How do I cook rice?"),
    ("How do I buy a big car?", "How can I purchase a large car?"),
    ("Weight: 5kg in pounds?", "weight: 5 kilograms in pounds"),
    ("Why isn't it working?", "Why is it not working?"),
    ("Who founded Rome?", "who founded rome"),
    ("What does C++ mean?", "Explain C++"),
]


@pytest.mark.parametrize(("guard", "left", "right"), REFUSED, ids=lambda value: str(value)[:40])
def test_a_guard_refuses_and_says_why(guard: str, left: str, right: str) -> None:
    alone = refusal(left, right, without=frozenset(GUARDS) - {guard})
    assert alone is not None, f"{guard} lets it pass: {left} | {right}"
    assert alone.guard == guard
    assert alone.why
    assert refusal(left, right) is not None


@pytest.mark.parametrize(("left", "right"), PASSED, ids=lambda value: str(value)[:40])
def test_paraphrases_pass(left: str, right: str) -> None:
    assert refusal(left, right) is None


HARD = [line.split(" | ") for line in (Path(__file__).parent / "hard_pairs.txt").read_text().splitlines()]


@pytest.mark.parametrize(("left", "right"), HARD, ids=lambda value: value[:40])
def test_questions_that_differ_in_a_word_or_two_are_kept_apart(left: str, right: str) -> None:
    assert refusal(left, right) is not None


def test_every_guard_has_a_row() -> None:
    assert {guard for guard, _, _ in REFUSED} == set(GUARDS)


_SOME_WORDS = """how what who is the a dog cat not without safe unsafe 5 fifty three Paris london from to than more
less my your `x` "y" C++ don't reset before after 日本 wie и ? , . In was will twenty first by eaten France's"""
_WORDS = st.sampled_from(_SOME_WORDS.split())
_TEXTS = st.lists(_WORDS, max_size=14).map(" ".join) | st.text(max_size=60)


@settings(max_examples=400, deadline=None)
@example("how without safe", "how without safe from safe")
@given(_TEXTS, _TEXTS)
def test_guards_are_symmetric(left: str, right: str) -> None:
    one, other = refusal(left, right), refusal(right, left)
    assert (one is None) == (other is None)
    assert one is None or other is None or one.guard == other.guard


@settings(max_examples=300, deadline=None)
@given(_TEXTS)
def test_equal_texts_pass_each_guard(text: str) -> None:
    assert refusal(text, text) is None
    assert refusal(text, text + " ") is None  # not the same object, and not the same string: each guard is asked


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("two hundred and five", ["205"]),
        ("three thousand four hundred", ["3400"]),
        ("a million", ["1000000"]),
        ("twenty five and six", ["25", "6"]),
        ("1,000,000 or 1.50", ["1000000", "1.50"]),
        ("3rd third 3", ["3.", "3.", "3"]),
        ("twenty first", ["21."]),
        ("10.0.0.1", ["10.0.0.1"]),
        ("half a dozen", ["0.5", "12"]),
        ("none", []),
    ],
)
def test_numbers_in_digits_and_words_are_one(text: str, values: list[str]) -> None:
    assert [value for _, _, value in spoken(text.split())] == values


def test_inflections_are_one_word_and_opposites_are_not() -> None:
    for one, other in (
        ("cities", "city"),
        ("running", "run"),
        ("stopped", "stop"),
        ("boxes", "box"),
        ("closed", "close"),
    ):
        assert canonical(one) == canonical(other)
    for one, other in (("safe", "unsafe"), ("high", "higher"), ("hard", "hardly"), ("glass", "gla"), ("user", "use")):
        assert canonical(one) != canonical(other)
