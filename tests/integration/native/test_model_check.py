"""`mesh model check` on repositories that cannot work: a reason for each, and soon."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from serving.cli.model_check import check_repository

DIGITS = Path(__file__).resolve().parents[3] / "examples" / "digits" / "models" / "digits"
SOON_S = 60.0


def truncate(model: Path) -> None:
    file = model / "1" / "model.onnx"
    file.write_bytes(file.read_bytes()[:5000])


def config(old: str, new: str) -> Callable[[Path], None]:
    def change(model: Path) -> None:
        file = model / "config.pbtxt"
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))

    return change


CASES: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (truncate, "model.onnx cannot be read"),
    "empty file": (lambda model: (model / "1" / "model.onnx").write_bytes(b""), "model.onnx cannot be read"),
    "zeros": (lambda model: (model / "1" / "model.onnx").write_bytes(bytes(50_000)), "model.onnx cannot be read"),
    "no file": (lambda model: (model / "1" / "model.onnx").unlink(), "there is no model.onnx or model.xml in"),
    "no version": (lambda model: shutil.rmtree(model / "1"), "digits/1'; the model's folder holds: config.pbtxt"),
    "version that is no number": (lambda model: (model / "1").rename(model / "one"), "holds: config.pbtxt, one"),
    "wrong shape": (config("[ 64 ]", "[ 3, 64 ]"), "input 'image' has 2 dims, config says 3"),
    "unknown backend": (config('"openvino"', '"nope"'), "nope"),
    "other name": (config('name: "digits"', 'name: "other"'), "unexpected directory name 'digits'"),
    "no protobuf": (config("max_batch_size: 64", "garbage {"), "config.pbtxt"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_model_that_cannot_work_is_answered_soon(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_PERTURB_", "85")  # nothing may rest on memory that happens to be zero
    model = tmp_path / "digits"
    shutil.copytree(DIGITS, model)
    change, reason = CASES[case]
    change(model)
    (found,) = check_repository(tmp_path, [], lambda _: None, timeout_s=SOON_S)
    assert found["state"] == "FAILED"
    assert reason in found["reason"]
