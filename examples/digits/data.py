"""The handwritten digits that scikit-learn carries, split once and for all into a training and a held-out part."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

SPLIT_SEED = 20240917
HELD_OUT_IMAGES = 450


@dataclass(frozen=True, slots=True)
class Split:
    """Images are float32 [count, 64], 8 rows of 8 pixels from 0 (white) to 16; labels are int64 from 0 to 9."""

    train_images: NDArray[np.float32]
    train_labels: NDArray[np.int64]
    held_out_images: NDArray[np.float32]
    held_out_labels: NDArray[np.int64]


def load_split() -> Split:
    """All 1,797 images: 1,347 to train with, 450 held out, the same ones on every machine and with equal shares."""
    digits = load_digits()
    train_images, held_out_images, train_labels, held_out_labels = train_test_split(
        digits.data.astype(np.float32),
        digits.target.astype(np.int64),
        test_size=HELD_OUT_IMAGES,
        random_state=SPLIT_SEED,
        stratify=digits.target,
    )
    return Split(train_images, train_labels, held_out_images, held_out_labels)
