"""Ratings of movies like those of MovieLens, made up by this script: no real person ever gave one of them.

MovieLens itself may not be shipped with other software. What is made here has its form (users, movies with genres and
years, ratings from 0.5 to 5 in halves, few of them per user) and something to learn: users like genres, some movies are
better than others, and the rest is chance. The same seed gives the same data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

SEED: Final = 20261122
GENRES: Final = ("Action", "Comedy", "Drama", "Horror", "Romance", "Sci-Fi", "Thriller", "Western")
FIRST_YEAR, LAST_YEAR = 1950, 2020

_ADJECTIVES = ("Silent", "Last", "Burning", "Hidden", "Golden", "Broken", "Endless", "Lonely", "Crimson", "Distant")
_NOUNS = ("River", "Station", "Promise", "Empire", "Garden", "Signal", "Winter", "Stranger", "Harbor", "Machine")


@dataclass(frozen=True, slots=True)
class Ratings:
    """`likes` [users, genres] is what users were made to like; `genres` [movies, genres] is 0 or 1.

    Rating i is `stars[i]`, which user `users[i]` gave movie `movies[i]`. Users and movies are numbers from 0.
    """

    likes: NDArray[np.float64]
    genres: NDArray[np.float32]
    years: NDArray[np.int64]
    titles: tuple[str, ...]
    users: NDArray[np.int64]
    movies: NDArray[np.int64]
    stars: NDArray[np.float32]


def make(*, users: int = 300, movies: int = 500, per_user: int = 40, seed: int = SEED) -> Ratings:
    """Draws everything from `seed`."""
    random = np.random.default_rng(seed)
    likes = random.normal(0.0, 1.0, (users, len(GENRES)))
    genres = _genres(random, movies)
    quality = random.normal(0.0, 0.5, movies)
    fame = random.gamma(1.0, 1.0, movies) + 0.05
    who = np.repeat(np.arange(users), per_user)
    what = np.concatenate([random.choice(movies, per_user, replace=False, p=fame / fame.sum()) for _ in range(users)])
    taste = np.einsum("ig,ig->i", likes[who], genres[what]) / genres[what].sum(axis=1)
    raw = 3.2 + 0.7 * taste + quality[what] + random.normal(0.0, 0.4, len(who))
    return Ratings(
        likes=likes,
        genres=genres,
        years=random.integers(FIRST_YEAR, LAST_YEAR + 1, movies),
        titles=tuple(_title(random, number) for number in range(movies)),
        users=who,
        movies=what,
        stars=np.clip(np.round(raw * 2) / 2, 0.5, 5.0).astype(np.float32),
    )


def _genres(random: np.random.Generator, movies: int) -> NDArray[np.float32]:
    flags = np.zeros((movies, len(GENRES)), np.float32)
    for row in flags:
        row[random.choice(len(GENRES), random.integers(1, 4), replace=False)] = 1.0
    return flags


def _title(random: np.random.Generator, number: int) -> str:
    return f"The {random.choice(_ADJECTIVES)} {random.choice(_NOUNS)} {number}"
