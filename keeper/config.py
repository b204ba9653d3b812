"""The keeper's configuration: frozen, units in names, read from JSON or YAML and from flags."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from keeper.quota import Quotas
from serving.config import EtcdConfig, TlsConfig
from serving.errors import InvalidArgument
from serving.validation import closest_match


@dataclass(frozen=True, slots=True)
class KeeperConfig:
    """Everything a keeper process is told.

    `listen` is `host:port`, port 0 is any free one; `advertise_host` is what clients are told, the listening host where
    it is empty. With `tls` the service takes TLS only; with `tls.ca_file` clients must show a certificate of that
    authority.
    """

    etcd: EtcdConfig
    id: str = ""
    listen: str = "127.0.0.1:0"
    advertise_host: str = ""
    tls: TlsConfig | None = None
    metrics_listen: str = ""
    log_file: str = ""
    log_level: str = "info"
    election_ttl_s: int = 5
    cluster_grace_s: float = 5.0
    reconnect_grace_s: float = 15.0
    store_loss_grace_s: float = 30.0
    adopt_grace_s: float = 15.0
    stop_grace_s: float = 5.0
    max_watchers: int = 1000
    quotas: Quotas = field(default_factory=Quotas)


C = TypeVar("C")


def load(path: Path) -> KeeperConfig:
    """Reads a JSON or YAML file. Raises `InvalidArgument` that names file and field."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidArgument(f"cannot read the configuration {path}: {error.strerror}") from error
    return from_mapping(_parse(text, path), str(path))


def from_mapping(values: Any, source: str) -> KeeperConfig:
    """The configuration from plain values, as a file or flags give them. Raises `InvalidArgument`."""
    return _build(KeeperConfig, values, source)


def _parse(text: str, path: Path) -> Any:
    if path.suffix == ".json":
        try:
            return json.loads(text)
        except ValueError as error:
            raise InvalidArgument(f"{path} is not JSON: {error}") from error
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidArgument(f"{path} is not YAML: {error}") from error


def _build(kind: type[C], values: Any, where: str) -> C:
    if not isinstance(values, Mapping):
        raise InvalidArgument(f"{where}: a table of settings is wanted, found {type(values).__name__}")
    hints = typing.get_type_hints(kind)
    known = {item.name: item for item in fields(kind)}  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            closest = closest_match(str(name), known)
            hint = f"; did you mean `{closest}`?" if closest else ""
            raise InvalidArgument(f"{where}: there is no setting `{name}`{hint} (allowed: {', '.join(sorted(known))})")
    missing = [
        name
        for name, item in known.items()
        if name not in values and item.default is MISSING and item.default_factory is MISSING
    ]
    if missing:
        raise InvalidArgument(f"{where}: the setting `{missing[0]}` is missing")
    return kind(**{name: _value(hints[name], value, f"{where}: {name}") for name, value in values.items()})


def _value(hint: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        inner = [part for part in typing.get_args(hint) if part is not type(None)]
        return None if value is None else _value(inner[0], value, where)
    if is_dataclass(hint) and isinstance(hint, type):
        return _build(hint, value, where)
    if origin is tuple:
        if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
            raise InvalidArgument(f"{where}: a list of texts is wanted, found {value!r}")
        return tuple(value)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise InvalidArgument(f"{where}: a table is wanted, found {value!r}")
        inner_type = typing.get_args(hint)[1]
        return {str(name): _value(inner_type, item, f"{where}.{name}") for name, item in value.items()}
    return _scalar(hint, value, where)


def _scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        words = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}
        raise InvalidArgument(f"{where}: {words.get(hint, 'another value')} is wanted, found {value!r}")
    if isinstance(value, (int, float)) and value < 0:
        raise InvalidArgument(f"{where}: {value!r} is negative")
    return value
