"""What the grammar speaks of: countries, animals, colours, names, words."""

from __future__ import annotations

from typing import Final

CAPITALS: Final = {
    "France": "Paris",
    "Spain": "Madrid",
    "Italy": "Rome",
    "Germany": "Berlin",
    "Japan": "Tokyo",
    "China": "Beijing",
    "Egypt": "Cairo",
    "Kenya": "Nairobi",
    "Peru": "Lima",
    "Chile": "Santiago",
    "Canada": "Ottawa",
    "Norway": "Oslo",
    "Sweden": "Stockholm",
    "Finland": "Helsinki",
    "Poland": "Warsaw",
    "Greece": "Athens",
    "Cuba": "Havana",
    "India": "New Delhi",
    "Iran": "Tehran",
    "Iraq": "Baghdad",
    "Portugal": "Lisbon",
    "Austria": "Vienna",
    "Hungary": "Budapest",
    "Denmark": "Copenhagen",
    "Ireland": "Dublin",
    "Turkey": "Ankara",
    "Ukraine": "Kyiv",
    "Brazil": "Brasilia",
    "Ghana": "Accra",
    "Nepal": "Kathmandu",
}

# Each animal meets the same friend in every story, so that a story has one right text.
FRIENDS: Final = {
    "cat": "mouse",
    "dog": "rabbit",
    "horse": "bird",
    "bird": "fish",
    "fish": "frog",
    "mouse": "lion",
    "cow": "sheep",
    "lion": "horse",
    "fox": "bear",
    "bear": "fox",
    "frog": "duck",
    "duck": "cow",
}
ANIMALS: Final = tuple(FRIENDS)

# Each colour has its place, for the same reason.
PLACES: Final = {
    "red": "forest",
    "green": "garden",
    "blue": "river",
    "black": "mountain",
    "white": "meadow",
    "yellow": "village",
    "brown": "island",
    "grey": "harbour",
}
COLORS: Final = tuple(PLACES)

_NAMES: Final = """
Anna Ben Clara David Emma Felix Grace Henry Iris Jack Karen Leo Maria Noah Olga Peter Rosa Simon Tina Victor
"""
NAMES: Final = tuple(_NAMES.split())

WEATHER: Final = ("sunny", "rainy", "cloudy", "snowy", "windy", "foggy")

_WORDS: Final = """
alpha beta gamma delta river stone cloud apple bread table window garden paper summer winter silver golden little
bright quiet happy seven twelve north south east west water light house street music letter number question
answer morning evening orange purple coffee doctor teacher market bridge engine rocket planet ocean island
small large quick slow early late open closed first second third last one two three four five six ten
the a and or of in on to with from is are was it this that not all some many every please always never
"""
WORDS: Final = tuple(_WORDS.split())

# Words that a model must pass through unchanged although it has no token for them.
FOREIGN: Final = ("größe", "café", "naïve", "señor", "Ελλάδα", "мир", "你好", "日本", "안녕", "🙂", "🚀", "✓", "±", "€")
