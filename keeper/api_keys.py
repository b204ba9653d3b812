"""API keys: stored, changed, deleted, and written back when the store has lost them. See 0017-api-keys.md."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Final

from keeper.key_checks import check_key, check_limits
from serving._proto import keeper_pb2 as api
from serving._proto import records_pb2 as pb
from serving.access.api_key import is_key_id
from serving.access.directory import KeyDirectory, version_of
from serving.access.share_view import share_of, written
from serving.access.windows import PERIODS, window_of
from serving.control import Clock, Controller, Done, Outcome, Retry
from serving.errors import AlreadyExists, Conflict, InvalidArgument, NotFound, ResourceExhausted, StoreUnavailable
from serving.stamps import stamp
from serving.store import EtcdClient, OutcomeUnknown, keys
from serving.store.cache import CacheUpdate
from serving.store.records import decode, encode
from serving.store.types import KeyValue

_log = logging.getLogger("keeper.keys")
MAX_KEYS: Final = 10_000
_TOMBSTONES: Final = 500
_ATTEMPTS: Final = 20


class ApiKeys:
    """`run` until cancelled; every keeper may do all of it, since each write is a compare-and-set."""

    def __init__(self, client: EtcdClient, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._directory = KeyDirectory(client)
        self._directory.cache.listen(self._on_update)
        self._restoring: Controller[str] = Controller("restore-keys", self._restore, clock=clock)

    async def run(self) -> None:
        try:
            await self._directory.start()
            await self._restoring.run()
        finally:
            await self._directory.close()

    # ---------------------------------------------------------------------------------------------------- the service

    async def create(self, request: api.CreateKeyRequest) -> api.KeyView:
        """Raises `AlreadyExists` for another key of the same id; the same again is answered as the first time."""
        key = pb.ApiKey()
        key.CopyFrom(request.key)
        now = self._clock.now()
        check_key(key, now)
        if sum(not one.HasField("deleted_at") for one in self._directory.all()) >= MAX_KEYS:
            raise ResourceExhausted(f"there are {MAX_KEYS} API keys already; delete some (`mesh keys delete`)")
        key.version, key.disabled = 1, False
        key.created_at.CopyFrom(stamp(now))
        key.ClearField("deleted_at")
        try:
            await self._client.put_if(keys.api_key(key.id), encode(key), mod_revision=0)
        except (Conflict, OutcomeUnknown) as error:
            found, _ = await self._read(key.id)
            if found.secret_sha256 != key.secret_sha256:
                raise AlreadyExists(f"there is another API key {key.id}") from error
            return self._shown(found, ())
        _log.info("API key created", extra={"key_id": key.id, "tenant": key.tenant})
        return self._shown(key, ())

    async def get(self, request: api.KeyId) -> api.KeyView:
        """With what is used of its budgets. Raises `NotFound`."""
        key, _ = await self._read(_checked(request.id))
        return self._shown(key, (await self._client.get_prefix(keys.shares(key.id))).kvs)

    async def list(self, request: api.ListKeysRequest) -> api.ListKeysResponse:
        """Without what is used."""
        snapshot = await self._client.get_prefix(keys.API_KEYS)
        found = [decode(pb.ApiKey, kv.value) for kv in snapshot.kvs]
        wanted = [one for one in found if not one.HasField("deleted_at") and request.tenant in ("", one.tenant)]
        wanted.sort(key=lambda one: (one.tenant, one.name, one.id))
        return api.ListKeysResponse(keys=[self._shown(one, ()) for one in wanted])

    async def update(self, request: api.UpdateKeyRequest) -> api.KeyView:
        """Raises `NotFound`, and `Conflict` where another version is the current one."""
        check_limits(request.limits)

        def change(key: pb.ApiKey) -> None:
            if request.if_version and key.version != request.if_version:
                raise Conflict(f"API key {key.id} has version {key.version}, not {request.if_version}: read it again")
            if request.HasField("disabled"):
                key.disabled = request.disabled
            if request.HasField("limits"):
                key.limits.CopyFrom(request.limits)

        return self._shown(await self._change(_checked(request.id), change), ())

    async def delete(self, request: api.KeyId) -> api.DeleteKeyResponse:
        """A tombstone stays, without the hash. Raises `NotFound` for a key that never was."""

        def change(key: pb.ApiKey) -> None:
            if not key.HasField("deleted_at"):
                key.deleted_at.CopyFrom(stamp(self._clock.now()))
                key.secret_sha256 = ""

        await self._change(_checked(request.id), change, deleted=True)
        await self._client.delete_prefix(keys.shares(request.id))
        await self._sweep()
        return api.DeleteKeyResponse()

    # ------------------------------------------------------------------------------------------------------ the store

    async def _read(self, key_id: str, *, deleted: bool = False) -> tuple[pb.ApiKey, int]:
        """The record and its revision. Raises `NotFound`."""
        entry = await self._client.get(keys.api_key(key_id))
        key = decode(pb.ApiKey, entry.value) if entry is not None else None
        if entry is None or key is None or (key.HasField("deleted_at") and not deleted):
            raise NotFound(f"there is no API key {key_id} (`mesh keys list` shows them)")
        return key, entry.mod_revision

    async def _change(self, key_id: str, change: Callable[[pb.ApiKey], None], *, deleted: bool = False) -> pb.ApiKey:
        """Reads, changes and writes, again when somebody else wrote in between."""
        for _ in range(_ATTEMPTS):
            key, revision = await self._read(key_id, deleted=deleted)
            before = encode(key)
            change(key)
            if encode(key) == before:
                return key
            key.version += 1
            try:
                await self._client.put_if(keys.api_key(key_id), encode(key), mod_revision=revision)
            except (Conflict, OutcomeUnknown):
                continue
            _log.info("API key changed", extra={"key_id": key_id, "tenant": key.tenant, "version": key.version})
            return key
        raise Conflict(f"API key {key_id} is being changed by others all the time; try again")

    async def _sweep(self) -> None:
        """Of tombstones the newest are kept."""
        dead = [one for one in self._directory.all() if one.HasField("deleted_at")]
        dead.sort(key=lambda one: one.deleted_at.ToNanoseconds())
        for one in dead[:-_TOMBSTONES]:
            await self._client.delete(keys.api_key(one.id))

    def _shown(self, key: pb.ApiKey, shares: Iterable[KeyValue]) -> api.KeyView:
        view = api.KeyView(key=key)
        view.key.ClearField("secret_sha256")
        records = [one.record for one in written(shares).values()]
        for name, period in PERIODS.items():
            if not period.is_budget or not getattr(key.limits, name):
                continue
            number = window_of(period, self._clock.now(), key.id).number
            current = [share for share in (share_of(one, name) for one in records) if share.window == number]
            view.used.append(
                api.KeyUsage(
                    limit=name,
                    used=sum(share.used for share in current),
                    granted=sum(share.granted for share in current),
                )
            )
        return view

    # --------------------------------------------------------------------------------------- a store that lost its past

    def _on_update(self, update: CacheUpdate) -> None:
        if not update.stale:
            for key in self._directory.cache.carried():
                self._restoring.wake(key)

    async def _restore(self, store_key: str) -> Outcome:
        """Writes back what the store lost; never over a later version."""
        cache = self._directory.cache
        known = cache.get(store_key)
        if known is None or not cache.is_carried(store_key):
            return Done()
        try:
            found = await self._client.get(store_key)
            if found is not None and version_of(found) >= version_of(known):
                return Done()
            await self._client.put_if(store_key, known.value, mod_revision=found.mod_revision if found else 0)
        except (StoreUnavailable, Conflict) as error:
            return Retry(error.message)
        _log.warning("API key restored from memory", extra={"store_key": store_key})
        return Done()


def _checked(key_id: str) -> str:
    if not is_key_id(key_id):
        raise InvalidArgument(f"id: {key_id[:80]!r} is not the id of an API key (16 hexadecimal digits)")
    return key_id
