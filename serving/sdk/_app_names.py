"""The ways in which callers name an application."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from serving.errors import InvalidArgument
from serving.store.keys import AppKey
from serving.types import DEFAULT_NAMESPACE, NAME_RULE, is_name

if TYPE_CHECKING:
    from serving.sdk.spec import Application  # a gateway names applications, and reads no specs

AppName: TypeAlias = "str | AppKey | Application"
"""An application: `"digits"` (of the namespace `default`), `"team/digits"`, its `AppKey`, or the `Application`."""


def app_key(app: AppName) -> AppKey:
    """`"digits"`, `"team/digits"`, an `AppKey` or an `Application` → the key. Raises `InvalidArgument`."""
    if isinstance(app, AppKey):
        return app
    if not isinstance(app, str):
        return AppKey(app.namespace, app.name)
    namespace, _, name = app.rpartition("/")
    key = AppKey(namespace or DEFAULT_NAMESPACE, name)
    if not is_name(key.namespace) or not is_name(key.name):
        raise InvalidArgument(f"`{app}` names no application; expected is `name` or `namespace/name` ({NAME_RULE})")
    return key
