"""Makes a planned change in the store: one transaction, fenced where it decides."""

from __future__ import annotations

from collections.abc import Sequence

from keeper.changes import Change
from serving.store import Compare, EtcdClient, Op
from serving.store.records import encode


async def commit(client: EtcdClient, change: Change, *, fence: Sequence[Compare] = ()) -> int | None:
    """The store's revision after `change`; None when what it expected was no longer so. Raises `StoreUnavailable`."""
    compares = [*fence, *(Compare.mod_revision(key, revision) for key, revision in change.expects.items())]
    ops = [Op.put(key, encode(record)) for key, record in change.puts.items()]
    ops += [Op.delete_prefix(prefix) for prefix in change.delete_prefixes]
    ops += [Op.delete(key) for key in change.deletes]
    result = await client.txn(compares, ops)
    return result.revision if result.succeeded else None
