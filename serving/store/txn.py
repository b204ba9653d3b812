"""Transactions that may have been applied although the call failed. Pure.

A transaction is *self-guarding* when applying it makes one of its own conditions false (a put under "absent" or under
a revision, a delete under "exists"). Such a one can be sent again: it is applied at most once, and a late straggler of
the first attempt does nothing. When the repeat finds its conditions false, the keys say whether it was the first
attempt that made them so. Values of contended keys must therefore name their writer, as the mesh's records do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from serving.store.types import Compare, CompareKind, KeyValue, Op, OpKind

_FALSE_AFTER_PUT = frozenset({CompareKind.ABSENT, CompareKind.MOD_REVISION, CompareKind.MOD_BEFORE})
_FALSE_AFTER_DELETE = frozenset({CompareKind.EXISTS, CompareKind.MOD_REVISION, CompareKind.VALUE})


def reads_only(then: Sequence[Op], otherwise: Sequence[Op]) -> bool:
    return not any(op.writes for op in (*then, *otherwise))


def is_self_guarding(compares: Sequence[Compare], then: Sequence[Op], otherwise: Sequence[Op]) -> bool:
    """True when it can be sent twice without being applied twice."""
    if any(op.writes for op in otherwise):
        return False
    puts = {op.key: op.value for op in then if op.kind is OpKind.PUT}
    deletes = {op.key for op in then if op.kind is OpKind.DELETE}
    return any(_is_broken_by(compare, puts, deletes) for compare in compares)


def _is_broken_by(compare: Compare, puts: Mapping[str, bytes], deletes: set[str]) -> bool:
    if compare.key in puts:
        if compare.kind is CompareKind.VALUE:
            return puts[compare.key] != compare.expected
        return compare.kind in _FALSE_AFTER_PUT
    if compare.key not in deletes:
        return False
    return compare.kind in _FALSE_AFTER_DELETE and not _is_zero(compare)


def _is_zero(compare: Compare) -> bool:
    """`mod_revision(key, 0)` means absent, which a delete does not change."""
    return compare.kind is CompareKind.MOD_REVISION and compare.revision == 0


def keys_to_read(then: Sequence[Op]) -> tuple[str, ...]:
    """The keys whose state tells whether `then` was applied."""
    return tuple(op.key for op in then if op.kind in (OpKind.PUT, OpKind.DELETE))


def applied_at(then: Sequence[Op], found: Mapping[str, KeyValue], *, after_revision: int) -> int | None:
    """The revision at which `then` was applied, judged by its keys as they are now; None when they do not show it.

    `found` holds the keys of `keys_to_read` that exist; `after_revision` is a revision from before the first attempt.
    A transaction of deletes alone answers `after_revision`: nothing is left that would know better.
    """
    revisions = set()
    for op in then:
        kv = found.get(op.key)
        if op.kind is OpKind.DELETE and kv is not None:
            return None
        if op.kind is OpKind.PUT:
            if kv is None or kv.value != op.value or kv.lease != op.lease or kv.mod_revision <= after_revision:
                return None
            revisions.add(kv.mod_revision)
    if len(revisions) > 1 or not keys_to_read(then):
        return None
    return revisions.pop() if revisions else after_revision
