"""What requests say to caches."""

from __future__ import annotations

import pytest

from serving.cache.control import CacheControl, read_control
from serving.cache.headers import read_tags
from serving.errors import InvalidArgument


@pytest.mark.parametrize(
    ("text", "control"),
    [
        ("", CacheControl()),
        ("no-cache", CacheControl(no_cache=True)),
        ("No-Store, max-age=5", CacheControl(no_store=True, max_age_s=5)),
        ('only-if-cached , max-age="60"', CacheControl(only_if_cached=True, max_age_s=60)),
        ("max-age=0", CacheControl(max_age_s=0)),
        ("max-age=soon, private, x=y, ,", CacheControl()),
        ("max-age=-1", CacheControl()),
        ("max-age=²", CacheControl()),
        ("max-age=5, max-age=6", CacheControl(max_age_s=5)),
        ("max-age=" + "9" * 10_000, CacheControl(max_age_s=999_999_999_999)),
    ],
)
def test_cache_control(text: str, control: CacheControl) -> None:
    assert read_control(text) == control


def test_tags() -> None:
    assert read_tags(" a, b,,a ,c d ") == ("a", "b", "c d")
    assert read_tags("") == ()
    for wrong in ("x" * 129, ",".join(map(str, range(17))), "ä", "a\x07b"):
        with pytest.raises(InvalidArgument, match="at most 16 tags"):
            read_tags(wrong)
