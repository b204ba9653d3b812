"""What the guards look at in a text, computed once for each text. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Final

from serving.cache import words as known
from serving.cache.numbers import spoken

_EXACT: Final = re.compile(
    r"```.*?```|`[^`]+`|\"[^\"]+\"|“[^”]+”|(?<!\w)'[^'\n]{2,}'(?!\w)|https?://\S+|[\w.+-]+@[\w-]+\.\w+"
    r"|(?<!\w)[~.]{0,2}/[\w./-]+|\b[A-Za-z]:\\\S+|\b\w+(?:\.\w+)*\(\)?|\b\w+_\w+\b|--?[a-zA-Z][\w-]+(?<=\w)",
    re.DOTALL,
)
_WORD: Final = re.compile(r"[+-]?\d[\d,.:/-]*\d|\w+(?:['’-]\w+)*[+#]*|[%€$£¥]|[=<>≤≥≠+*/^]")
_ATTACHED: Final = re.compile(r"^(\d[\d.,]*)([a-z%°]+)$")
_SENTENCE_END: Final = re.compile(r"[.!?:;\n]\s*$")
_LEADING_CLAUSE: Final = re.compile(
    r"^\s*((?:in|on|with|for|using|when|if|at|as|under|given|after|before|during)\b[^,.?!]*),\s*(.+)$", re.I | re.DOTALL
)
_POLITE: Final = re.compile(
    r"^\W*(?:(?:hi|hello|hey|please|so|well|ok|okay|um|thanks)\b[\s,!.]*"
    r"|(?:can|could|would|will) you (?:please |kindly )?(?=(?:tell|explain|describe|give|show|help|say|let)\b)"
    r"|(?:i(?:'d| would)? (?:want|need|like|love|wish) to (?:know|learn|understand|find out)|i'm wondering"
    r"|i was wondering|i wonder"
    r"|do you know|any idea|tell me|let me know|explain(?: to me)?|show me|give me)\b[\s,:]*(?:about |please )?)+",
    re.I,
)
_SPACED: Final = re.compile(r"[^\W\d_]")


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """`content` are canonical content words in order, numbers among them; `order` with persons; `tokens` all words."""

    content: tuple[str, ...]
    order: tuple[str, ...]
    tokens: Counter[str]
    numbers: Counter[str]
    negations: Counter[str]
    exact: Counter[str]
    names: frozenset[str]
    lower: frozenset[str]
    poles: frozenset[tuple[int, int]]
    links: frozenset[tuple[str, str]]
    passive: int
    kinds: frozenset[str]
    tenses: frozenset[str]
    persons: frozenset[str]
    length: int
    script: str
    language: str


@lru_cache(maxsize=8192)
def features(text: str) -> Features:
    """The same for the same text; some tens of microseconds for a short one."""
    text = text.replace("’", "'")
    exact = Counter(match.group().strip("\"'“”`") for match in _EXACT.finditer(text))
    moved = _LEADING_CLAUSE.sub(r"\2 \1", _POLITE.sub("", text, count=1))
    surface = _split(moved)
    lower = [word.lower() for word, _ in surface]
    numbers = [entry for entry in spoken(lower) if lower[entry[0] : entry[1]] != ["one"]]
    kinds = _kinds(lower)
    content, order = _content(lower, numbers), _content(lower, numbers, _meant(lower, kinds))
    return Features(
        content=tuple(content),
        order=tuple(order),
        tokens=Counter(canonical(word) for word in lower),
        numbers=Counter(value for _, _, value in numbers),
        negations=_negations(lower),
        exact=exact,
        names=_names(surface),
        lower=frozenset(lower) | {_bare(word) for word in lower},
        poles=_poles(lower),
        links=_links(lower),
        passive=_passive(lower),
        kinds=kinds,
        tenses=_tenses(lower),
        persons=_meant(lower, kinds),
        length=len(lower),
        script=_script(text),
        language=_language(lower),
    )


@lru_cache(maxsize=65536)
def canonical(word: str) -> str:
    """One form for inflections and synonyms of a word in lower case."""
    bare = _bare(word)
    stemmed = _stem(bare)
    return _stem(known.SYNONYMS.get(bare) or known.SYNONYMS.get(stemmed) or stemmed)


def _bare(word: str) -> str:
    return word.removesuffix("'s").removesuffix("'")


def _stem(word: str) -> str:
    """Takes endings of number and tense away, never those of comparison or negation."""
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    for ending in ("ing", "ed"):
        if len(word) > len(ending) + 3 and word.endswith(ending):
            word = word[: -len(ending)]
            return (
                word[:-1] if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "ls" else word.removesuffix("e")
            )
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-2] if word.endswith(("ches", "shes", "xes", "sses")) else word[:-1]
    return word.removesuffix("e") if len(word) > 3 else word


def _split(text: str) -> list[tuple[str, bool]]:
    """Words, each with whether it begins a sentence. `twenty-five`, `5kg` and `don't` come apart."""
    found: list[tuple[str, bool]] = []
    behind = 0
    for match in _WORD.finditer(text):
        word = match.group()
        first = not found or bool(_SENTENCE_END.search(text[behind : match.start()]))
        behind = match.end()
        attached = _ATTACHED.match(word.lower())
        if attached and attached.group(2) not in ("st", "nd", "rd", "th"):
            found += [(attached.group(1), first), (attached.group(2), False)]
        elif word.lower().endswith("n't"):
            found += [(word[:-3], first), ("not", False)]
        elif "-" in word and word[0].isalpha():
            found += [(part, first and place == 0) for place, part in enumerate(word.split("-"))]
        else:
            found.append((word, first))
    return found


def _content(lower: list[str], numbers: list[tuple[int, int, str]], persons: frozenset[str] = frozenset()) -> list[str]:
    """Canonical content words in order, with these persons among them."""
    values = {start: value for start, _, value in numbers}
    inside = {place for start, end, _ in numbers for place in range(start, end)}
    owner = ""  # of `X's Y`: goes behind Y, as in `Y of X`
    found: list[str] = []
    for place, word in enumerate(lower):
        if place in values:
            found.append(values[place])
        elif word in persons:
            found.append(word)
        elif place not in inside and not _says_nothing(lower, place):
            if word.endswith("'s") and not owner:
                owner = canonical(word)
                continue
            found.append(canonical(word))
            if owner:
                found.append(owner)
                owner = ""
    return [*found, owner] if owner else found


def _says_nothing(lower: list[str], place: int) -> bool:
    """Whether the word at this place is one of politeness, framing or grammar."""
    word = lower[place]
    before = lower[place - 1] if place else ""
    after = lower[place + 1] if place + 1 < len(lower) else ""
    return (
        _bare(word) in _EMPTY
        or word in known.NEGATORS
        or (word in known.ASKING_VERBS and (not place or before in ("you", "please") or after in ("me", "us")))
        or (word == "best" and after in known.MANNER)
        or (word in ("take", "takes") and "how" in lower[:place] and "long" in lower[:place])
        or (before == "how" and word in _AFTER_HOW)
        or (before in ("what", "which") and word == "person")
        or (word in ("mean", "means") and after in ("", "by"))
        or (word in ("meaning", "definition") and after == "of" and place <= 3)
        or (word == "possible" and before == "it")
    )


_EMPTY: Final = known.STOP_WORDS | known.FILLERS | {"what's", "who's", "where's", "how's", "it's", "i'm", "i'd", "i've"}


def _negations(lower: list[str]) -> Counter[str]:
    """What each negating word stands before."""
    found: Counter[str] = Counter()
    for place, word in enumerate(lower):
        if word in known.NEGATORS:
            after = (canonical(lower[at]) for at in range(place + 1, len(lower)) if not _says_nothing(lower, at))
            found[next(after, "")] += 1
    return found


def _names(surface: list[tuple[str, bool]]) -> frozenset[str]:
    """Capitalised words, except those at a sentence's start that are common; with digits or capitals inside, all."""
    found = set()
    for word, first in surface:
        bare = _bare(word)
        digits = any(letter.isdigit() for letter in bare) and not bare[0].isdigit()
        mixed = digits or any(letter.isupper() for letter in bare[1:])
        common = first and bare.lower() in known.COMMON_STARTS
        if mixed or bare[-1:] in "+#" or (bare[:1].isupper() and bare != "I" and not common and len(bare) > 1):
            found.add(bare.lower())
    return frozenset(found - {"i'm", "i'd", "i've", "i'll"})


def _poles(lower: Iterable[str]) -> frozenset[tuple[int, int]]:
    return frozenset(pole for word in lower for pole in _POLES.get(word, ()))


def _pole_table() -> dict[str, tuple[tuple[int, int], ...]]:
    table: dict[str, tuple[tuple[int, int], ...]] = {}
    for axis, sides in enumerate(known.OPPOSITES):
        for side, members in enumerate(sides):
            for word in members:
                table[word] = (*table.get(word, ()), (axis, side))
    return table


_POLES: Final = _pole_table()


def _links(lower: list[str]) -> frozenset[tuple[str, str]]:
    """(content word, the preposition or conjunction that it stands behind)."""
    found = set()
    link = ""
    for place, word in enumerate(lower):
        if word in known.LINKS:
            link = word
        elif not _says_nothing(lower, place):
            if link:
                found.add((canonical(word), link))
            link = ""
    return frozenset(found)


def _passive(lower: list[str]) -> int:
    pairs = pairwise(lower[:-1])  # a `by` at the end has nobody behind it
    return sum(1 for before, word in pairs if word == "by" and before.endswith(("ed", "en", "wn", "ught", "ade")))


def _meant(lower: list[str], kinds: frozenset[str]) -> frozenset[str]:
    """The persons of a text, without those that only say that somebody does it, or that the answerer is asked."""
    found = known.PERSONS & set(lower)
    if "manner" in kinds:
        found -= known.GENERIC
    return found - {"you"} if _requested(lower) else found


def _requested(lower: list[str]) -> bool:
    """Of `can you list ...`: list it."""
    rest = [word for word in lower[2:5] if word not in ("please", "kindly")]
    asked = bool(rest) and rest[0] in known.REQUESTS | known.ASKING_VERBS
    return asked and lower[0] in known.AUXILIARIES and lower[1] == "you"


def _kinds(lower: list[str]) -> frozenset[str]:
    found = {_kind(lower, place) for place in range(len(lower))} - {""}
    if lower and lower[0] in known.AUXILIARIES and not found and not _requested(lower):
        duty, ability = lower[0] in known.DUTY, lower[0] in known.ABILITY
        found.add("whether one should" if duty else "whether one can" if ability else "whether")
    return frozenset(found - {"thing"})


_AFTER_HOW: Final = {"many": "quantity", "much": "quantity", "long": "duration", "far": "distance", "old": "age",
                     "often": "frequency", "big": "size", "large": "size", "tall": "height", "high": "height",
                     "fast": "speed", "heavy": "weight", "deep": "depth", "come": "reason"}  # fmt: skip
_AFTER_WHAT: Final = {"time": "time", "year": "time", "date": "time", "day": "time", "place": "place", "city": "",
                      "reason": "reason", "number": "quantity", "person": "person"}  # fmt: skip
_PLAIN: Final = {"who": "person", "whom": "person", "whose": "owner", "when": "time", "where": "place", "why": "reason"}


def _kind(lower: list[str], place: int) -> str:
    word = _bare(lower[place])
    after = lower[place + 1] if place + 1 < len(lower) else ""
    if word == "how":
        return _AFTER_HOW.get(after, "manner")
    if word in ("what", "which"):
        return _AFTER_WHAT.get(after, "thing")
    if word in known.MANNER:
        return "manner"
    if word == "reason":
        return "reason"
    return _PLAIN.get(word, "")


def _tenses(lower: list[str]) -> frozenset[str]:
    """Past and future if there are any; the present is what is left."""
    found = {"past" for word in lower if word in known.PAST} | {"future" for word in lower if word in known.FUTURE}
    if "have" in lower and (known.DUTY | known.ABILITY | {"would"}) & set(lower[: lower.index("have")]):
        found.add("past")  # "should have done"
    if not known.AUXILIARIES & set(lower):  # else it may be a participle
        found |= {"past" for who, word in pairwise(lower) if who in _SUBJECTS and word.endswith("ed")}
    return frozenset(found)


_SUBJECTS: Final = frozenset(("who", "what", "which", "that", "person", "he", "she", "it", "they", "we", "i", "you"))


def _script(text: str) -> str:
    """The script of most letters, coarsely."""
    counts: Counter[str] = Counter()
    for letter in _SPACED.findall(text[:2000]):
        code = ord(letter)
        counts[next((name for limit, name in _SCRIPTS if code < limit), "other")] += 1
    return counts.most_common(1)[0][0] if counts else "none"


_SCRIPTS: Final = ((0x250, "Latin"), (0x370, "other Latin"), (0x400, "Greek"), (0x530, "Cyrillic"), (0x590, "Armenian"),
                   (0x600, "Hebrew"), (0x780, "Arabic"), (0x900, "other"), (0xE00, "Indic"), (0xE80, "Thai"),
                   (0x3040, "other"), (0x3100, "Japanese"), (0xA000, "Han"), (0xD7B0, "Korean"))  # fmt: skip


def _language(lower: list[str]) -> str:
    """The language whose small words are most frequent; empty when fewer than two are there, or two languages tie."""
    counts = sorted(
        ((sum(word in table for word in lower), name) for name, table in known.LANGUAGES.items()), reverse=True
    )
    return counts[0][1] if counts[0][0] >= 2 and counts[0][0] > counts[1][0] else ""
