"""Amounts with units."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.sdk._quantities import parse_bytes, parse_cores, parse_seconds


@pytest.mark.parametrize(
    ("text", "amount"),
    [("512Mi", 512 << 20), ("1.5Gi", 3 << 29), ("2G", 2 * 10**9), ("1k", 1000), ("7", 7), ("3 MiB", 3 << 20), (9, 9)],
)
def test_bytes(text: object, amount: int) -> None:
    assert parse_bytes(text) == amount


@pytest.mark.parametrize(
    "text", ["", "Mi", "-1Mi", "512mi", "1e3", "0x10", "1 2", "٣Mi", "9" * 50, None, [], True, 1.5]
)
def test_not_bytes(text: object) -> None:
    with pytest.raises(ValueError, match="such as 512Mi"):
        parse_bytes(text)


@pytest.mark.parametrize(("text", "amount"), [("500m", 0.5), ("2", 2.0), ("0.25", 0.25), (3, 3.0), (0.1, 0.1)])
def test_cores(text: object, amount: float) -> None:
    assert parse_cores(text) == amount


@pytest.mark.parametrize(
    ("text", "amount"), [("90", 90.0), ("2m", 120.0), ("1m30s", 90.0), ("500ms", 0.5), ("1h 5s", 3605.0), (1.5, 1.5)]
)
def test_seconds(text: object, amount: float) -> None:
    assert parse_seconds(text) == pytest.approx(amount)


@pytest.mark.parametrize("text", ["", "s", "1d", "1m30", "-5s", "1,5s", None, True])
def test_not_seconds(text: object) -> None:
    with pytest.raises(ValueError, match="such as 30s"):
        parse_seconds(text)


@given(st.integers(0, 10**6), st.sampled_from(["", "k", "Ki", "M", "Mi", "G", "Gi"]))
def test_units_multiply(number: int, unit: str) -> None:
    assert parse_bytes(f"{number}{unit}") == number * parse_bytes(f"1{unit}")
