"""What the mesh adds to OpenVINO GenAI: what happens where it does not fit, and messages without places in sources."""

from __future__ import annotations

import types
from pathlib import Path

import pytest

from serving.llm.engine_errors import one_line
from serving.llm.openvino_native import import_genai, load_native


def test_it_fits_the_installed_package() -> None:
    native, why = load_native(import_genai())
    assert why == ""
    native.check_regex("[ab]+")
    with pytest.raises(RuntimeError, match="Unclosed"):
        native.check_regex("[ab")


def test_another_library_is_told_and_not_used(tmp_path: Path) -> None:
    other = types.SimpleNamespace(__file__=str(tmp_path / "__init__.py"))
    assert load_native(other) == (None, f"there is no libopenvino_genai.so beside {other.__file__}")
    (tmp_path / "libopenvino_genai.so.1").touch()
    native, why = load_native(other)
    assert native is None
    assert "libopenvino_genai.so.1 is not loaded" in why


def test_messages_keep_what_is_wrong() -> None:
    for said, kept in (
        (
            "[15:10:47] /opt/x/regex_converter.cc:75: Regex parsing error at position 4: Unclosed '['",
            "Regex parsing error",
        ),
        ("Check 'a > b' failed at /opt/x/sequence.hpp:784:\nInternal error: this", "Internal error: this"),
        ("Exception from src/inference/src/core.cpp:1:\nno such device", "no such device"),
        ("", "RuntimeError"),
    ):
        assert one_line(RuntimeError(said)).startswith(kept)
