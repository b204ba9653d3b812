"""`Cache-Control` of a request (RFC 9111, 5.2.1), as far as a cache of answers can follow it. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CacheControl:
    """`no_cache`: no stored answer, but the new one may be kept. `no_store`: the cache is not asked at all.

    `only_if_cached`: a stored answer, or 504. `max_age_s`: the age of a stored answer, at most.
    """

    no_cache: bool = False
    no_store: bool = False
    only_if_cached: bool = False
    max_age_s: float | None = None


def read_control(text: str) -> CacheControl:
    """Directives that are not known, or make no sense, are ignored, as the standard wants."""
    names: dict[str, str] = {}
    for part in text.split(","):
        name, _, value = part.strip().partition("=")
        names.setdefault(name.strip().lower(), value.strip().strip('"'))
    age = names.get("max-age", "")
    return CacheControl(
        no_cache="no-cache" in names,
        no_store="no-store" in names,
        only_if_cached="only-if-cached" in names,
        max_age_s=float(age[:12]) if age.isascii() and age.isdigit() else None,
    )
