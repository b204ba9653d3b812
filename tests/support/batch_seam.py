"""A runner's part in small, over its seam (`orders.claims`): claims a batch and ends it with given outcomes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from serving._proto import batch_pb2 as pb
from serving.batch.orders.claims import Claimed, claim, read_batch
from serving.batch.store.content import ContentStore, kept
from serving.batch.store.files import OUTPUT, file_record, new_file_id
from serving.config import EtcdConfig
from serving.store import EtcdClient
from serving.store.lease import Lease

Outcomes = Iterable[Mapping[str, Any]]


def outcome(custom_id: str, status: int = 200, text: str = "ok") -> dict[str, Any]:
    """A line of an output, or with `status` 0 of an error file where nobody answered."""
    response = {"status_code": status, "request_id": "r", "body": {"text": text}} if status else None
    error = None if status else {"code": "batch_expired", "message": "This request could not be executed in time."}
    return {"id": f"batch_req_{custom_id}", "custom_id": custom_id, "response": response, "error": error}


class SeamRunner:
    """`folder` is that of the file store."""

    def __init__(self, etcd: EtcdConfig, folder: Path) -> None:
        self._etcd = etcd
        self._content = ContentStore(str(folder))

    async def tell(self, batch_id: str, state: pb.BatchState, *, total: int, completed: int = 0) -> None:
        """Claims it, says how far it is, and gives it back as it stands."""
        await self._write(batch_id, pb.BatchStatus(state=state, total=total, completed=completed), {})

    async def end(
        self,
        batch_id: str,
        state: pb.BatchState,
        *,
        total: int,
        output: Outcomes = (),
        errors: Outcomes = (),
        faults: Iterable[pb.BatchLineError] = (),
    ) -> None:
        """Claims and ends it, with those lines in its files."""
        good, bad = list(output), list(errors)
        status = pb.BatchStatus(state=state, total=total, completed=len(good), failed=len(bad), errors=faults)
        await self._write(batch_id, status, {"output_file": good, "error_file": bad})

    async def _write(self, batch_id: str, status: pb.BatchStatus, files: Mapping[str, list[Any]]) -> None:
        store, lease = EtcdClient(self._etcd), Lease(self._etcd, ttl_s=30)
        try:
            await lease.start()
            batch = await read_batch(store, "default", batch_id)
            mine: Claimed = await claim(store, batch, runner="r", cluster="c", lease=lease.id, now=time.time())
            records = []
            for name, lines in files.items():
                if lines:
                    records.append(self._file(lines))
                    setattr(status, name, records[-1].id)
            await mine.write(status, records)
            await mine.release()
        finally:
            await lease.revoke()
            await store.close()

    def _file(self, lines: list[Any]) -> pb.FileRecord:
        text = "".join(f"{json.dumps(one)}\n" for one in lines)
        made = kept(self._content, "default", lambda writing: writing.write(text.encode()))
        return file_record(
            "default", new_file_id(), made, filename="out.jsonl", purpose=OUTPUT, now=time.time(), expires_after_s=0
        )
