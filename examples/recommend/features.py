"""The tables that features are looked up in, and the features. `src/features.cc` reads and computes the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from examples.recommend.data import FIRST_YEAR, GENRES, LAST_YEAR, Ratings

FEATURES: Final = 2 * len(GENRES) + 4


@dataclass(frozen=True, slots=True)
class Tables:
    """What is known of users and movies from their ratings, as float32: what the files hold, to the bit."""

    affinity: NDArray[np.float32]  # [users, genres]: mean stars of a genre's movies, less the user's mean
    user_mean: NDArray[np.float32]
    user_count: NDArray[np.float32]  # ratings, as share of the busiest user's
    genres: NDArray[np.float32]
    movie_mean: NDArray[np.float32]
    age: NDArray[np.float32]  # from 0 (LAST_YEAR) to 1 (FIRST_YEAR)
    titles: tuple[str, ...]
    seen: tuple[frozenset[int], ...]  # movies that each user has rated


def tables(ratings: Ratings) -> Tables:
    users, movies = len(ratings.likes), len(ratings.genres)
    overall = float(ratings.stars.mean())
    user_count = np.bincount(ratings.users, minlength=users)
    user_mean = _mean(ratings.users, ratings.stars, users, overall)
    offset = ratings.stars - user_mean[ratings.users]
    affinity = np.zeros((users, len(GENRES)))
    for genre in range(len(GENRES)):
        has = ratings.genres[ratings.movies, genre] > 0
        affinity[:, genre] = _mean(ratings.users[has], offset[has], users, 0.0)
    seen: list[set[int]] = [set() for _ in range(users)]
    for user, movie in zip(ratings.users, ratings.movies, strict=True):
        seen[user].add(int(movie))
    return Tables(
        affinity=affinity.astype(np.float32),
        user_mean=user_mean.astype(np.float32),
        user_count=(user_count / user_count.max()).astype(np.float32),
        genres=ratings.genres,
        movie_mean=_mean(ratings.movies, ratings.stars, movies, overall).astype(np.float32),
        age=((LAST_YEAR - ratings.years) / (LAST_YEAR - FIRST_YEAR)).astype(np.float32),
        titles=ratings.titles,
        seen=tuple(frozenset(one) for one in seen),
    )


def features(known: Tables, user: int, movies: NDArray[np.int64]) -> NDArray[np.float32]:
    """[movies, FEATURES]: the movie's genres, what the user thinks of each of them, and four numbers."""
    genres = known.genres[movies]
    rows = np.empty((len(movies), FEATURES), np.float32)
    rows[:, : len(GENRES)] = genres
    rows[:, len(GENRES) : 2 * len(GENRES)] = genres * known.affinity[user]
    rows[:, -4] = known.user_mean[user]
    rows[:, -3] = known.user_count[user]
    rows[:, -2] = known.movie_mean[movies]
    rows[:, -1] = known.age[movies]
    return rows


def write(known: Tables, folder: Path) -> None:
    """`users.tsv` and `movies.tsv`; floats with nine digits, which is all of a float32."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "users.tsv").open("w") as file:
        for user, row in enumerate(known.affinity):
            numbers = [known.user_mean[user], known.user_count[user], *row]
            seen = ",".join(str(movie) for movie in sorted(known.seen[user]))
            file.write("\t".join([str(user), *(f"{number:.9g}" for number in numbers), seen]) + "\n")
    with (folder / "movies.tsv").open("w") as file:
        for movie, row in enumerate(known.genres):
            numbers = [known.movie_mean[movie], known.age[movie], *row]
            file.write("\t".join([str(movie), *(f"{number:.9g}" for number in numbers), known.titles[movie]]) + "\n")


def _mean(groups: NDArray[np.int64], values: NDArray[np.float32], count: int, usual: float) -> NDArray[np.float64]:
    """The mean of each group, drawn to what is usual as if that had been seen twice."""
    sums = np.bincount(groups, values.astype(np.float64), count)
    return np.asarray((sums + 2 * usual) / (np.bincount(groups, minlength=count) + 2))
