"""English as far as the guards know it: tables of words. Words are in lower case; inflected forms as they are written.

What is not in a table is a content word, and content words must agree: a word that is missing here costs a hit, never
a wrong answer. So additions to SYNONYMS, FILLERS and STOP_WORDS need care; additions to all others are safe.
"""

from __future__ import annotations

from typing import Final


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


NEGATORS: Final = _words(
    "not no never without neither nor cannot none nobody nothing nowhere hardly barely scarcely except excluding avoid"
    " fail fails stop stops unless lack lacks isnt arent wasnt werent dont doesnt didnt cant couldnt shouldnt wouldnt"
    " wont hasnt havent hadnt mustnt aint"
)
NEGATING_PREFIXES: Final = ("un", "in", "im", "ir", "il", "dis", "non", "non-", "mis", "de", "anti", "anti-")

# Both sides of each line exclude each other. Content words of a line need not be here to be told apart; these are the
# words that would otherwise count for nothing, and those whose difference is worth a name of its own.
OPPOSITES: Final = tuple(
    (_words(left), _words(right))
    for left, right in (
        ("more", "less fewer"),
        ("most", "least fewest"),
        ("before earlier prior until", "after later since following"),
        (
            "min minimum minimal minimise minimize lowest smallest",
            "max maximum maximal maximise maximize highest largest",
        ),
        ("first oldest earliest", "last newest latest final"),
        ("increase increases increasing raise", "decrease decreases decreasing reduce lower"),
        ("with including", "without excluding"),
        ("up upward above over", "down downward below under beneath"),
        ("in inside into within", "out outside off"),
        ("on enable enabled enables activate", "off disable disabled disables deactivate"),
        ("best better", "worst worse"),
        ("high higher", "low lower"),
        ("fast faster fastest", "slow slower slowest"),
        ("long longer longest", "short shorter shortest"),
        ("all every each always", "none never some sometimes"),
        ("start begin open", "stop end close"),
        ("buy buying", "sell selling"),
        ("import upload encrypt encode compress", "export download decrypt decode decompress"),
        ("add install create", "remove uninstall delete"),
        ("advantage advantages pro pros benefit benefits", "disadvantage disadvantages con cons drawback drawbacks"),
        ("ascending", "descending"),
        ("left", "right"),
        ("north", "south"),
        ("east", "west"),
        ("hot hotter warm", "cold colder cool"),
        ("ally safe legal", "enemy dangerous illegal"),
        ("gain win", "lose loss"),
        ("public", "private"),
        ("old older", "new newer young younger"),
    )
)

# Asked-for things that are the same whoever phrases them; each line is one meaning.
SYNONYMS: Final = {
    word: line.split()[0]
    for line in (
        "buy purchase",
        "fix repair mend",
        "begin start commence",
        "big large huge",
        "small little tiny",
        "fast quick quickly rapidly",
        "car automobile",
        "movie film",
        "kid child children kids",
        "physician doctor",
        "picture photo photograph image",
        "delete remove erase",
        "create make build generate",
        "show display",
        "error bug problem issue trouble",
        "job occupation",
        "get obtain acquire",
        "help assist aid",
        "choose select pick",
        "allow permit",
        "need require",
        "author writer wrote written write writes writing",
        "invent invented inventor",
        "discover discovered discoverer",
        "found founded founder establish established",
        "often frequently",
        "phone telephone smartphone",
        "cost price expense costs prices",
        "change modify alter",
        "modern contemporary",
        "happen occur",
        "difference differences differ different distinguish",
        "advantage benefit pro",
        "disadvantage drawback con",
        "method way approach technique procedure steps step",
        "boil boiling",
        "weight weigh weighs",
        "height tall",
        "population inhabitants populous",
        "kilogram kg kilograms kilo kilos",
        "gram g grams",
        "kilometre km kilometer kilometres kilometers",
        "metre m meter metres meters",
        "centimetre cm centimeter centimetres centimeters",
        "mile miles mi",
        "pound pounds lb lbs",
        "percent % percentage",
        "dollar $ dollars usd",
        "euro € euros eur",
        "hour hours h hr hrs",
        "minute minutes min mins",
        "second seconds sec secs",
        "celsius °c",
        "fahrenheit °f",
        "usa us u.s. america",
        "uk britain",
        "every all each",
    )
    for word in line.split()
}

# Words of politeness and of framing: they say that something is asked, not what.
FILLERS: Final = _words(
    "please kindly thanks thank hello hi hey actually basically simply really exactly"
    " method way approach technique procedure steps step reason"  # these say what kind of answer: a guard of its own
)
ASKING_VERBS: Final = _words(
    "tell explain describe give show say let define help answer list"
)  # where a request begins
STOP_WORDS: Final = _words(
    "a an the this that these those there here it its is are was were be been being am do does did done doing have has"
    " had having will would shall should can could may might must ought i me my mine myself you your yours yourself we"
    " our ours us he him his she her hers they them their theirs one ones of to from in into on onto at by for with"
    " as than then so and or but if when while what which who whom whose where why how"
    " any some also too very please kindly s re ve ll d m t o’clock per such"
)
REQUESTS: Final = _words(
    "list name write compare translate summarize summarise calculate compute recommend suggest draft"
)
COMMON_STARTS: Final = (
    STOP_WORDS
    | FILLERS
    | NEGATORS
    | ASKING_VERBS
    | REQUESTS
    | _words(
        "convert find make create build"
        " add remove delete reset change set install open close start stop fix every all most more after"
        " before during since until both either according between under over above assume suppose"
        " what's who's where's how's"
    )
)
# Who is meant, and in which part: "he ... her" is not "she ... him". `me` and `us` are mostly those who ask.
PERSONS: Final = _words("i my mine you your yours he him his she her hers they them their theirs we our ours")
GENERIC: Final = _words("i you we")  # in "how do I", whoever does it
PAST: Final = _words("was were did had been")
PRESENT: Final = _words("is are am does do has have")
FUTURE: Final = _words("will shall")
DUTY: Final = _words("should must ought shall")
ABILITY: Final = _words("can could may might")
AUXILIARIES: Final = PAST | PRESENT | FUTURE | DUTY | ABILITY | _words("would isn't aren't don't doesn't didn't can't")
# What a content word stands behind; where two texts say two of them of the same word, they differ.
LINKS: Final = _words(
    "of to from in into on onto at by for with about as than per and or but without like if while until"
)
MANNER: Final = _words("method way approach technique procedure steps step instructions")

_ENGLISH_ONLY: Final = _words("the is are what how do of and to in for with does can my you")
LANGUAGES: Final = {
    "English": _ENGLISH_ONLY,
    "German": _words("der die das ist sind was wie und nicht ein eine ich wir mit auf für von den dem wo wer warum"),
    "French": _words("le la les est sont que quel quelle et une je nous avec sur pour de du des comment où qui"),
    "Spanish": _words("el la los las es son qué cuál y una yo con en para de del cómo dónde quién por se mi"),
    "Italian": _words("il lo la gli è sono che quale una io con per di del come dove chi perché mio"),
    "Portuguese": _words("os é são que qual um uma eu com em para de do da como onde quem por meu"),
    "Dutch": _words("de het een is zijn wat hoe en niet ik wij met op voor van waar wie waarom mijn"),
}
