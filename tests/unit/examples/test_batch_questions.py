"""The check of the batch example finds what it is for."""

from __future__ import annotations

from pathlib import Path

from examples.batch import ordered
from examples.batch.questions import PROMPTS, body_of, faults, rows
from serving.sdk import load_spec


def test_every_kind_of_fault_is_found() -> None:
    known = {prompt: f"answer to {prompt}" for prompt in PROMPTS}
    good = [{"id": row["id"], "generated_text": known[row["prompt"]]} for row in rows(len(PROMPTS) + 3)]
    assert faults(reversed(good), len(good), known) == []
    assert faults(good[1:], len(good), known) == ["row 0 is missing"]
    assert faults([*good, good[2]], len(good), known) == ["row 2 is there twice"]
    assert faults([{**good[0], "generated_text": "no"}, *good[1:]], len(good), known)[0].startswith("row 0: ")
    assert faults([{**good[0], "generated_text": None}, *good[1:]], len(good), known)[0].startswith("row 0: ")
    assert faults(good, len(good) - 1, known) == [f"row {len(good) - 1} was never asked for"]


def test_no_row_is_another_ones_twin() -> None:
    bodies = [str(body_of(row["prompt"], **row["sampling_params"])) for row in rows(3 * len(PROMPTS))]
    assert len(set(bodies)) == len(bodies)


def test_the_runners_of_the_example() -> None:
    spec = load_spec(Path(ordered.__file__).parent / "app.yaml")
    assert (spec.name, len(spec.deployments)) == ("batches", 1)
