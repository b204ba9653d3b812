"""Which URLs, addresses and secrets callbacks may have."""

from __future__ import annotations

import base64
import ipaddress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.broker.callbacks.keys import Secrets
from serving.broker.callbacks.policy import AddressRule, host_allowed, read_url, shown_url
from serving.broker.callbacks.settings import CallbackSettings
from serving.errors import FailedPrecondition, InvalidArgument, MeshError, NotFound, PermissionDenied

PUBLIC = CallbackSettings()
KEY = "whsec_" + base64.b64encode(b"k" * 24).decode()


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"),
        *("224.0.0.1", "255.255.255.255", "240.0.0.1", "192.0.2.1", "198.18.0.1"),
        *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fec0::1", "ff02::1", "2001:db8::1", "100::1"),
        *("::ffff:127.0.0.1", "::ffff:a9fe:a9fe", "::127.0.0.1", "64:ff9b::10.0.0.1", "2002:7f00:1::", "2001::1"),
        "no address",
    ],
)
def test_addresses_of_ones_own_are_not_called(address: str) -> None:
    assert not AddressRule(PUBLIC).allows_text(address)


@pytest.mark.parametrize(
    "address", ["93.184.216.34", "8.8.8.8", "2606:2800:220:1::1", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_public_addresses_are(address: str) -> None:
    assert AddressRule(PUBLIC).allows_text(address)


def test_networks_open_what_they_name_and_no_more() -> None:
    rule = AddressRule(CallbackSettings(networks=("10.0.0.0/8", "fd00::/8")))
    assert [rule.allows_text(one) for one in ("10.9.9.9", "::ffff:10.9.9.9", "fd00::1")] == [True] * 3
    assert [rule.allows_text(one) for one in ("11.0.0.1", "127.0.0.1", "fc00::1")] == [True, False, False]
    with pytest.raises(InvalidArgument, match="networks"):
        CallbackSettings(networks=("10.0.0.1/8",))


@given(st.ip_addresses())
def test_no_address_is_called_that_python_knows_to_be_private(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    if address.is_private or address.is_loopback or address.is_link_local or address.is_multicast:
        embeds = address.version == 6 and (address.ipv4_mapped is not None or address.sixtofour is not None)
        assert embeds or not AddressRule(PUBLIC).allows(address)


@pytest.mark.parametrize(
    ("url", "host", "receiver"),
    [
        ("https://hooks.example.org", "hooks.example.org", "hooks.example.org:443"),
        ("https://HOOKS.example.org:8443/a/b?c=d&e=%20", "hooks.example.org", "hooks.example.org:8443"),
        ("https://8.8.8.8/", "8.8.8.8", "8.8.8.8:443"),
        ("https://[2606:2800:220:1::1]:444/", "2606:2800:220:1::1", "2606:2800:220:1::1:444"),
        ("https://a?x", "a", "a:443"),
    ],
)
def test_a_url_says_whom_it_calls(url: str, host: str, receiver: str) -> None:
    target = read_url(url, PUBLIC)
    assert (target.url, target.host, target.receiver) == (url, host, receiver)


@pytest.mark.parametrize(
    "url",
    [
        *("", "hooks.example.org", "//hooks.example.org", "ftp://a.org/", "file:///etc/passwd", "HTTPS://a.org/"),
        *("https:///a", "https://user@a.org/", "https://u:p@a.org/", "https://a.org\\@b.org/", "https://a.org#x"),
        *(
            "https://a.org/ x",
            "https://a.org/\n",
            "https://a.org/ä",
            "https://ä.org/",
            "https://a.org:x/",
            "https://a.org:0/",
        ),
        *(
            "https://2130706433/",
            "https://0x7f.1/",
            "https://127.1/",
            "https://0x7f000001/",
            "https://[::1/",
            "https://a..1/",
        ),
        "https://a.org:65536/",
    ],
)
def test_what_parsers_read_differently_is_refused(url: str) -> None:
    with pytest.raises(InvalidArgument):
        read_url(url, PUBLIC)


@pytest.mark.parametrize("url", ["http://a.org/", "https://127.0.0.1/", "https://[::ffff:10.0.0.1]/", "https://[::]/"])
def test_what_may_not_be_called_is_refused(url: str) -> None:
    with pytest.raises(PermissionDenied):
        read_url(url, PUBLIC)


def test_hosts_are_names_and_what_is_below_a_domain() -> None:
    allowed = ("hooks.example.org", "*.Example.com", "10.0.0.1")
    for host in ("hooks.example.org", "a.example.com", "a.b.example.com", "10.0.0.1"):
        assert host_allowed(host, allowed), host
    for host in ("example.org", "a.hooks.example.org", "example.com", "badexample.com", "a.example.com.evil.org"):
        assert not host_allowed(host, allowed), host
    assert host_allowed("anything", ())


@given(st.text(max_size=40))
def test_any_text_is_a_url_or_refused(text: str) -> None:
    for url in (text, f"https://{text}", f"https://a.org/{text}"):
        try:
            target = read_url(url, PUBLIC)
        except MeshError:
            continue
        assert target.url == url
        assert shown_url(url).startswith("https://")


def test_a_shown_url_has_no_query() -> None:
    assert shown_url("https://a.org:1/b?key=secret") == "https://a.org:1/b?..."
    assert shown_url("https://a.org/b") == "https://a.org/b"


# ---------------------------------------------------------------------------------------------------- secrets


def test_secrets_are_files_that_may_change(tmp_path: Path) -> None:
    secrets = Secrets(tmp_path)
    (tmp_path / "hook").write_text(f"\n# one\n{KEY}\n")
    assert secrets.keys("hook") == (b"k" * 24,)
    assert secrets.keys("hook") is secrets.keys("hook"), "it is read once"
    longer = "whsec_" + base64.b64encode(b"l" * 64).decode()
    (tmp_path / "hook").write_text(f"{KEY}\n{longer}")
    assert secrets.keys("hook") == (b"k" * 24, b"l" * 64)
    (tmp_path / "hook").unlink()
    with pytest.raises(NotFound, match="no secret `hook`"):
        secrets.keys("hook")


@pytest.mark.parametrize("name", ["", ".", "..", "../hook", "/etc/passwd", "a/b", ".hidden", "x" * 65, "a\0", "ü"])
def test_a_name_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidArgument, match="no name of a secret"):
        Secrets(tmp_path).keys(name)


def test_without_a_folder_there_are_none() -> None:
    with pytest.raises(NotFound, match=r"broker\.callbacks\.secrets"):
        Secrets(None).keys("hook")


@pytest.mark.parametrize("text", ["", "# none", "plain", "whsec_c2hvcnQ=", f"{KEY}\n" * 9, "whsec_" + "A" * 5000])
def test_a_malformed_file_is_named_without_its_content(tmp_path: Path, text: str) -> None:
    (tmp_path / "hook").write_text(text)
    with pytest.raises(FailedPrecondition, match="the secret hook") as refused:
        Secrets(tmp_path).keys("hook")
    assert KEY not in str(refused.value)
    assert "c2hvcnQ" not in str(refused.value)


def test_a_folder_is_no_secret(tmp_path: Path) -> None:
    (tmp_path / "hook").mkdir()
    with pytest.raises(FailedPrecondition, match="cannot be read"):
        Secrets(tmp_path).keys("hook")
