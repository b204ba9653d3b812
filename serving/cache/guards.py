"""Reasons why two texts of high similarity are different questions. Pure.

Vectors say what a text is about, hardly what it asks: "safe" and "unsafe", "from A to B" and "from B to A", "5 kg" and
"50 kg" are neighbours. Each guard compares one thing that vectors miss, and says why it refuses. All of them are
symmetric, and pass equal texts.

The guard `content` decides most: after politeness, framing and small words are taken away, and inflections and common
synonyms made one, the same words must be left. A paraphrase in other words is then generated again: a lost hit, never a
wrong answer. Without it (`without=frozenset({"content"})`) more is answered, and what no other guard knows, wrongly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from serving.cache import words as known
from serving.cache.features import Features, features

_MAX_RATIO: Final = 3.0
_RATIO_FROM_WORDS: Final = 12  # short texts differ much by a "please"


@dataclass(frozen=True, slots=True)
class Refusal:
    """`guard` is a name of GUARDS; `why` is for logs and people, with words of both texts."""

    guard: str
    why: str


def refusal(left: str, right: str, without: frozenset[str] = frozenset()) -> Refusal | None:
    """The first guard's refusal to answer one text with the other's answer, or None. `without` leaves guards out."""
    if left == right:
        return None
    one, other = features(left), features(right)
    for name, guard in GUARDS.items():
        why = "" if name in without else guard(one, other)
        if why:
            return Refusal(name, why)
    return None


def _language(one: Features, other: Features) -> str:
    if one.script != other.script:
        return f"one is in {one.script} script, the other in {other.script}"
    if one.language != other.language and one.language and other.language:
        return f"one is in {one.language}, the other in {other.language}"
    return ""


def _length(one: Features, other: Features) -> str:
    short, long = sorted((one.length, other.length))
    if long > _RATIO_FROM_WORDS and long > _MAX_RATIO * max(short, 1):
        return f"one has {short} words, the other {long}"
    return ""


def _numbers(one: Features, other: Features) -> str:
    return _unlike("numbers", one.numbers, other.numbers)


def _exact(one: Features, other: Features) -> str:
    return _unlike("code, paths, addresses or quoted text", one.exact, other.exact)


def _negation(one: Features, other: Features) -> str:
    if one.negations.total() != other.negations.total():
        return f"one negates {one.negations.total()} times, the other {other.negations.total()}"
    if one.negations != other.negations and one.tokens == other.tokens:
        return _unlike("negated words", one.negations, other.negations)
    left, right = set(one.tokens) - set(other.tokens), set(other.tokens) - set(one.tokens)
    for word in left | right:
        against = right if word in left else left
        negated = {prefix + word for prefix in known.NEGATING_PREFIXES} & against
        if negated:
            return f"{word} against {min(negated)}"
        if word.endswith("less") and {word.removesuffix("less"), word.removesuffix("less") + "ful"} & against:
            return f"{word} against its opposite"
    return ""


def _names(one: Features, other: Features) -> str:
    missing = sorted(one.names - other.lower) + sorted(other.names - one.lower)
    return f"only one of them names {_list(missing)}" if missing else ""


def _opposites(one: Features, other: Features) -> str:
    for axis, side in one.poles ^ other.poles:
        mine, its = {pole for pole in one.poles if pole[0] == axis}, {pole for pole in other.poles if pole[0] == axis}
        if mine and its and (axis, side) in mine | its:
            return f"opposites: {' / '.join(min(members) for members in known.OPPOSITES[axis])}"
    return ""


def _question(one: Features, other: Features) -> str:
    if one.kinds != other.kinds:
        return f"one asks for {_list(one.kinds) or 'a thing'}, the other for {_list(other.kinds) or 'a thing'}"
    return ""


def _tense(one: Features, other: Features) -> str:
    if one.tenses != other.tenses:
        return f"one is in the {_list(one.tenses) or 'present'}, the other in the {_list(other.tenses) or 'present'}"
    return ""


def _person(one: Features, other: Features) -> str:
    return _unlike("persons", Counter(one.persons), Counter(other.persons))


def _content(one: Features, other: Features) -> str:
    left, right = Counter(one.content), Counter(other.content)
    if left.keys() != right.keys():
        return _unlike("words", Counter(set(left)), Counter(set(right)))
    if not left and one.tokens != other.tokens:
        return "both have small words only, and not the same"
    return ""


def _direction(one: Features, other: Features) -> str:
    if one.passive != other.passive:
        return "who does it, and to whom, is not the same (`by`)"
    links, others = _by_word(one.links), _by_word(other.links)
    for word in sorted(links.keys() & others.keys()):
        if links[word] != others[word]:
            return f"{_list(links[word])} {word} against {_list(others[word])} {word}"
    both = set(one.order) & set(other.order)
    left, right = [word for word in one.order if word in both], [word for word in other.order if word in both]
    moved = {word for pair in zip(left, right, strict=False) if pair[0] != pair[1] for word in pair}
    return f"not the same order of {_list(moved)}" if moved else ""


def _by_word(links: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for word, link in links:
        found.setdefault(word, set()).add(link)
    return found


def _unlike(what: str, one: Counter[str], other: Counter[str]) -> str:
    only = sorted((one - other).elements()), sorted((other - one).elements())
    if not only[0] and not only[1]:
        return ""
    return f"{what}: {_list(only[0]) or 'none'} against {_list(only[1]) or 'none'}"


def _list(items: Iterable[str]) -> str:
    return ", ".join(sorted(items)[:5])


GUARDS: Final[dict[str, Callable[[Features, Features], str]]] = {
    "language": _language,
    "length": _length,
    "numbers": _numbers,
    "exact": _exact,
    "negation": _negation,
    "opposites": _opposites,
    "names": _names,
    "question": _question,
    "tense": _tense,
    "person": _person,
    "direction": _direction,
    "content": _content,
}
