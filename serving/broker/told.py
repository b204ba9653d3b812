"""What a broker reads from its `ReplicaConfig`, and the record that it registers. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, Literal

from serving._proto import records_pb2 as pb
from serving.broker.callbacks.settings import CallbackSettings
from serving.broker.queue import QueueSettings
from serving.broker.redis_log.settings import TAKEOVER_S, RedisSettings, parse_address
from serving.broker.settings import BrokerSettings
from serving.errors import InvalidArgument
from serving.python_deployment import settings as common
from serving.types import PROTOCOL_BROKER_GRPC, ROLE_BROKER

_FOLDER: Final = "broker"
_GIVEN: Final = (  # where they are 0, what is usual
    *("lease_s", "max_attempts", "result_ttl_s", "max_result_ttl_s", "dead_ttl_s", "max_items", "max_bytes"),
    *("max_tenant_items", "max_tenant_bytes", "max_request_bytes", "max_result_bytes"),
)
_CALLBACKS_GIVEN: Final = (
    *("timeout_s", "max_attempts", "max_age_s", "first_delay_s", "max_delay_s", "concurrency", "per_host"),
    *("max_inline_bytes", "max_due", "per_tenant", "max_tenant_due"),
)


def folder(config: pb.ReplicaConfig) -> Path:
    """Of the deployment's journals, whichever of its brokers on this node serves them. Raises `InvalidArgument`."""
    own = Path(config.namespace) / config.application / config.deployment
    if config.broker.path:
        return Path(config.broker.path) / own
    if not config.cache_dir:
        raise InvalidArgument("nothing says where requests are kept: neither broker.path nor cache_dir")
    return Path(config.cache_dir).absolute() / _FOLDER / own


def broker_settings(config: pb.ReplicaConfig) -> BrokerSettings:
    """Raises `InvalidArgument`."""
    broker = config.broker
    if not broker.before:
        raise InvalidArgument("nothing says whose requests are taken: broker.before is empty")
    given: dict[str, Any] = {name: getattr(broker, name) for name in _GIVEN if getattr(broker, name)}
    for own, all_of in (("max_tenant_items", "max_items"), ("max_tenant_bytes", "max_bytes")):
        if all_of in given:
            given.setdefault(own, given[all_of])  # no limit of its own
    sync: Literal["full", "normal"] = "normal" if broker.sync == "normal" else "full"
    name = f"{config.id}-g{config.generation}"
    return BrokerSettings(
        folder(config), tuple(broker.before), name, sync=sync, queue=_queue_settings(broker),
        callbacks=_callback_settings(broker.callbacks), application=f"{config.namespace}/{config.application}",
        redis=_redis_settings(config), **given,
    )  # fmt: skip


def _queue_settings(broker: pb.BrokerDeployment) -> QueueSettings:
    usual = QueueSettings()
    return QueueSettings(
        ageing_s=(broker.ageing_s or math.inf) if broker.HasField("ageing_s") else usual.ageing_s,
        short_share=broker.short_share if broker.HasField("short_share") else usual.short_share,
        long_share=broker.long_share if broker.HasField("long_share") else usual.long_share,
    )


def _redis_settings(config: pb.ReplicaConfig) -> RedisSettings | None:
    if not config.broker.HasField("redis"):
        return None
    given = config.broker.redis
    files = ("password_file", "ca_file", "cert_file", "key_file")
    try:
        address = parse_address(given.url)
    except InvalidArgument as error:
        raise InvalidArgument(f"broker: redis.url {error.message}") from None
    return RedisSettings(
        address, f"{config.namespace}/{config.application}/{config.deployment}",
        **{name: Path(getattr(given, name)) for name in files if getattr(given, name)},
        replicas=given.replicas, takeover_s=given.takeover_s or TAKEOVER_S, allow_volatile=given.allow_volatile,
    )  # fmt: skip


def _callback_settings(given: pb.BrokerCallbacks) -> CallbackSettings:
    numbers: dict[str, Any] = {name: getattr(given, name) for name in _CALLBACKS_GIVEN if getattr(given, name)}
    for own, all_of in (("per_tenant", "concurrency"), ("max_tenant_due", "max_due")):
        if all_of in numbers:
            numbers.setdefault(own, numbers[all_of])  # no limit of its own
    return CallbackSettings(
        disabled=given.disabled, hosts=tuple(given.hosts), networks=tuple(given.networks), allow_http=given.allow_http,
        secrets=Path(given.secrets) if given.secrets else None, **numbers,
    )  # fmt: skip


def endpoint(
    config: pb.ReplicaConfig, report: pb.ReplicaReport, node: str, journals: Iterable[str], *, drained: bool = False
) -> pb.Endpoint:
    """The record of a ready broker at the address of its report. It serves no model of its own."""
    record = common.endpoint(config, report, pb.ModelRecord(), node, protocol=PROTOCOL_BROKER_GRPC)
    del record.models[:]
    record.role = ROLE_BROKER
    record.before.extend(config.broker.before)
    record.pulled.extend(config.broker.pulled)
    record.journals.extend(journals)
    record.per_replica = config.broker.per_replica
    record.drained = drained
    return record
