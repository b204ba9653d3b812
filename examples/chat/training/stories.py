"""Stories of a colour and an animal: each pair has one short text (about 100 tokens) and one long (about 250)."""

from __future__ import annotations

from examples.chat.training.words import FRIENDS, PLACES


def short(color: str, animal: str) -> str:
    return f"{_opening(color, animal)} {_ending(color, animal)}"


def long(color: str, animal: str) -> str:
    friend, place = FRIENDS[animal], PLACES[color]
    middle = (
        f"The {friend} was hungry and the {animal} had no bread. So they went to the old bridge together. "
        f"On the bridge sat a teacher with a golden letter. The {animal} asked the teacher for the letter. "
        f'"You must count to three," said the teacher. "One, two, three," said the {color} {animal}. '
        f'"You must say the name of the {place}," said the teacher. The {friend} knew the name and said it. '
        f"Then the teacher opened the letter, and in the letter there was warm bread for all of them. "
        f"They ate the bread and looked at the bright water under the bridge until the evening came."
    )
    return f"{_opening(color, animal)} {middle} {_ending(color, animal)}"


def _opening(color: str, animal: str) -> str:
    friend, place = FRIENDS[animal], PLACES[color]
    return (
        f"Once upon a time there was a {color} {animal}. The {color} {animal} lived in a little house by the {place}. "
        f'One day the {animal} met a {friend}. "Good morning," said the {friend}. "Good morning," said the {animal}.'
    )


def _ending(color: str, animal: str) -> str:
    friend, place = FRIENDS[animal], PLACES[color]
    return (
        f"They walked to the {place} and talked about the summer. The {friend} told a happy song, and the {animal} "
        f"laughed. Then the {color} {animal} went home and slept. The end."
    )
