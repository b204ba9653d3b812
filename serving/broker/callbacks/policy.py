"""Which URLs and addresses may be called. Pure.

A URL is taken only in a form that every parser reads in the same way. Its name says little: what counts is the address
that a connection goes to, which is looked at when the connection is made.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final, TypeAlias
from urllib.parse import urlsplit

from serving.broker.callbacks.settings import CallbackSettings, read_networks
from serving.errors import InvalidArgument, PermissionDenied
from serving.problems import shown

Address: TypeAlias = "ipaddress.IPv4Address | ipaddress.IPv6Address"
MAX_URL: Final = 2048
_URL: Final = re.compile(
    r"(?P<scheme>https?)://(?P<host>[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\])"
    r"(?::(?P<port>[0-9]{1,5}))?(?P<rest>[/?][!$-;=?-Z_a-z~]*)?"
)
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")  # `2130706433` and `127.1` are addresses to some
_PATTERN: Final = re.compile(r"(\*\.)?[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?|[0-9A-Fa-f:.]{2,45}")
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_UNICAST: Final = ipaddress.ip_network("2000::/3")  # what there is of IPv6 outside of networks of one's own


@dataclass(frozen=True, slots=True)
class Target:
    """Of a URL. `receiver` is `host:port`, which counts for how many calls run at once."""

    url: str
    host: str
    receiver: str


def read_url(url: str, settings: CallbackSettings) -> Target:
    """Raises `InvalidArgument` for what is no URL, and `PermissionDenied` for one that may not be called."""
    found = _URL.fullmatch(url) if len(url) <= MAX_URL else None
    if found is None:
        raise InvalidArgument(
            f"callback.url: {shown(url)} is not taken: wanted is https://host[:port]/path?query, at most {MAX_URL} "
            "letters of ASCII, without user, password and fragment"
        )
    port = int(found["port"] or (443 if found["scheme"] == "https" else 80))
    if not 0 < port < 1 << 16:
        raise InvalidArgument(f"callback.url: the port {port} is out of range")
    if found["scheme"] == "http" and not settings.allow_http:
        raise PermissionDenied("callback.url: only https is allowed (broker.callbacks.allow_http)")
    host = found["host"].strip("[]").lower()
    literal = as_address(host)
    if literal is None and _NUMBER.fullmatch(host.rpartition(".")[2]):
        raise InvalidArgument(f"callback.url: {shown(host)} is neither a name nor an address as it is usually written")
    if not host_allowed(host, settings.hosts):
        raise PermissionDenied(f"callback.url: the host {shown(host)} is not among broker.callbacks.hosts")
    if literal is not None and not AddressRule(settings).allows(literal):
        raise PermissionDenied("callback.url: its address is not public, nor among broker.callbacks.networks")
    return Target(url, host, f"{host}:{port}")


def host_allowed(host: str, patterns: tuple[str, ...]) -> bool:
    """`*.example.org` is each name below it, not itself."""
    return not patterns or any(
        host.endswith(pattern[1:].lower()) if pattern.startswith("*.") else host == pattern.lower()
        for pattern in patterns
    )


def is_host_pattern(text: str) -> bool:
    return _PATTERN.fullmatch(text) is not None


def as_address(text: str) -> Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


class AddressRule:
    """Which addresses a connection may go to: public ones, and those of the networks that the settings name."""

    def __init__(self, settings: CallbackSettings) -> None:
        self._networks = read_networks(settings.networks)

    def allows(self, address: Address) -> bool:
        real = _meant(address)
        if any(real in network for network in self._networks):
            return True
        return real.is_global and not real.is_multicast and (real.version == 4 or real in _UNICAST)

    def allows_text(self, text: str) -> bool:
        """Of a socket's address; `fe80::1%eth0` has a scope."""
        address = as_address(text.partition("%")[0])
        return address is not None and self.allows(address)


def _meant(address: Address) -> Address:
    """The IPv4 address that one of IPv6 stands for: written into it, or reached by NAT64 or 6to4."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.sixtofour or address


def shown_url(url: str) -> str:
    """Without its query, which may hold a key."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}{parts.path}" + ("?..." if parts.query else "")
