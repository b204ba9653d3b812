"""API keys of a mesh's gateways: created, shown, changed and deleted. Design: docs/design/0017-api-keys.md."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Final, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from serving._proto import keeper_pb2 as kpb
from serving._proto import records_pb2 as pb
from serving.access.api_key import new_key, secret_hash
from serving.sdk.keepers import Keepers
from serving.stamps import stamp

T = TypeVar("T")
_TIMEOUT_S: Final = 15.0


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """None: no limit. Tokens are those of prompts and answers together; days and months are those of UTC."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_requests: int | None = None
    tokens_per_day: int | None = None
    tokens_per_month: int | None = None
    tokens_total: int | None = None

    @staticmethod
    def from_record(record: pb.KeyLimits) -> KeyLimits:
        return KeyLimits(**{name: getattr(record, name) or None for name in KeyLimits.__slots__})

    def record(self) -> pb.KeyLimits:
        return pb.KeyLimits(**{name: getattr(self, name) or 0 for name in KeyLimits.__slots__})


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is stored, without its secret, which nobody has but its holder.

    `models` are patterns of names, empty: all; `namespaces` empty: all. `used` is what is used of the budgets' current
    windows, by limit, with the little that gateways hold ahead: what is left of a budget is the rest.
    """

    id: str
    tenant: str
    name: str
    models: tuple[str, ...]
    namespaces: tuple[str, ...]
    limits: KeyLimits
    disabled: bool
    version: int
    author: str
    created_at: datetime
    expires_at: datetime | None = None
    used: dict[str, int] = field(default_factory=dict)

    @staticmethod
    def from_view(view: kpb.KeyView) -> ApiKey:
        key = view.key
        return ApiKey(
            id=key.id,
            tenant=key.tenant,
            name=key.name,
            models=tuple(key.models),
            namespaces=tuple(key.namespaces),
            limits=KeyLimits.from_record(key.limits),
            disabled=key.disabled,
            version=key.version,
            author=key.author,
            created_at=_moment(key.created_at),
            expires_at=_moment(key.expires_at) if key.HasField("expires_at") else None,
            used={one.limit: one.granted for one in view.used},
        )


@dataclass(frozen=True, slots=True)
class CreatedKey:
    """`text` is what its holder sends. It is stored nowhere and cannot be shown again."""

    key: ApiKey
    text: str = field(repr=False)


class AsyncApiKeys:
    """`AsyncMeshClient.keys`. Every method raises errors of `serving.errors`, and ends within `timeout_s`."""

    def __init__(self, keepers: Keepers) -> None:
        self._keepers = keepers

    async def create(
        self,
        tenant: str,
        *,
        name: str = "",
        models: Sequence[str] = (),
        namespaces: Sequence[str] = (),
        limits: KeyLimits | None = None,
        expires_at: datetime | None = None,
        author: str = "",
        timeout_s: float = _TIMEOUT_S,
    ) -> CreatedKey:
        """A new key. Its secret is made here: keepers and the store get its hash only."""
        made = new_key()
        record = pb.ApiKey(
            id=made.id,
            tenant=tenant,
            name=name,
            secret_sha256=secret_hash(made.secret),
            models=models,
            namespaces=namespaces,
            limits=(limits or KeyLimits()).record(),
            author=author,
        )
        if expires_at is not None:
            record.expires_at.CopyFrom(stamp(expires_at.timestamp()))
        view = await self._keepers.call("CreateKey", kpb.CreateKeyRequest(key=record), timeout_s=timeout_s)
        return CreatedKey(ApiKey.from_view(view), made.text())

    async def list(self, tenant: str = "", *, timeout_s: float = _TIMEOUT_S) -> tuple[ApiKey, ...]:
        """Those of a tenant, or all; without what is used."""
        answer = await self._keepers.call("ListKeys", kpb.ListKeysRequest(tenant=tenant), timeout_s=timeout_s)
        return tuple(ApiKey.from_view(view) for view in answer.keys)

    async def get(self, key_id: str, *, timeout_s: float = _TIMEOUT_S) -> ApiKey:
        """Raises `NotFound`."""
        return ApiKey.from_view(await self._keepers.call("GetKey", kpb.KeyId(id=key_id), timeout_s=timeout_s))

    async def set_disabled(self, key_id: str, disabled: bool, *, timeout_s: float = _TIMEOUT_S) -> ApiKey:
        """Gateways refuse a disabled key within a moment; requests that run end normally. Raises `NotFound`."""
        request = kpb.UpdateKeyRequest(id=key_id, disabled=disabled)
        return ApiKey.from_view(await self._keepers.call("UpdateKey", request, timeout_s=timeout_s))

    async def set_limits(
        self, key_id: str, limits: KeyLimits, *, if_version: int = 0, timeout_s: float = _TIMEOUT_S
    ) -> ApiKey:
        """All of its limits anew. Raises `NotFound`; `Conflict` where `if_version` is not the current version."""
        request = kpb.UpdateKeyRequest(id=key_id, limits=limits.record(), if_version=if_version)
        return ApiKey.from_view(await self._keepers.call("UpdateKey", request, timeout_s=timeout_s))

    async def delete(self, key_id: str, *, timeout_s: float = _TIMEOUT_S) -> None:
        """For ever. Raises `NotFound`."""
        await self._keepers.call("DeleteKey", kpb.KeyId(id=key_id), timeout_s=timeout_s)


class ApiKeys:
    """`MeshClient.keys`: the methods of `AsyncApiKeys`, which wait for their answer."""

    def __init__(self, keys: AsyncApiKeys, wait: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._keys = keys
        self._wait = wait

    def create(
        self,
        tenant: str,
        *,
        name: str = "",
        models: Sequence[str] = (),
        namespaces: Sequence[str] = (),
        limits: KeyLimits | None = None,
        expires_at: datetime | None = None,
        author: str = "",
        timeout_s: float = _TIMEOUT_S,
    ) -> CreatedKey:
        made: CreatedKey = self._wait(
            self._keys.create(
                tenant,
                name=name,
                models=models,
                namespaces=namespaces,
                limits=limits,
                expires_at=expires_at,
                author=author,
                timeout_s=timeout_s,
            )
        )
        return made

    def list(self, tenant: str = "", *, timeout_s: float = _TIMEOUT_S) -> tuple[ApiKey, ...]:
        found: tuple[ApiKey, ...] = self._wait(self._keys.list(tenant, timeout_s=timeout_s))
        return found

    def get(self, key_id: str, *, timeout_s: float = _TIMEOUT_S) -> ApiKey:
        found: ApiKey = self._wait(self._keys.get(key_id, timeout_s=timeout_s))
        return found

    def set_disabled(self, key_id: str, disabled: bool, *, timeout_s: float = _TIMEOUT_S) -> ApiKey:
        changed: ApiKey = self._wait(self._keys.set_disabled(key_id, disabled, timeout_s=timeout_s))
        return changed

    def set_limits(
        self, key_id: str, limits: KeyLimits, *, if_version: int = 0, timeout_s: float = _TIMEOUT_S
    ) -> ApiKey:
        work = self._keys.set_limits(key_id, limits, if_version=if_version, timeout_s=timeout_s)
        changed: ApiKey = self._wait(work)
        return changed

    def delete(self, key_id: str, *, timeout_s: float = _TIMEOUT_S) -> None:
        self._wait(self._keys.delete(key_id, timeout_s=timeout_s))


def _moment(value: Timestamp) -> datetime:
    return datetime.fromtimestamp(value.ToNanoseconds() / 1e9, timezone.utc)
