"""TLS and mTLS: grpcio's own TLS library against OpenSSL, good and wrong certificates."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import os
import socket
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.integration.rpc.conftest import StartServer
from tests.integration.rpc.raw_http2 import PREFACE, SETTINGS, frame
from tests.integration.rpc.rpc_server import UNLIMITED, EchoServer, echo, method, server_binary, wait_until

TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Identity:
    cert: Path
    key: Path


class Authority:
    """A certificate authority for tests, with its files in a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder / name
        self.folder.mkdir()
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.file = self.folder / "ca.pem"
        certificate = self._sign(self._name, self._key, ca=True, days=30)
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def _sign(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, ca: bool, days: int) -> x509.Certificate:
        now = datetime.datetime.now(datetime.timezone.utc)
        names = x509.SubjectAlternativeName(
            [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        )
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=60))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(names, critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def issue(self, name: str, *, days: int = 30) -> Identity:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        identity = Identity(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        certificate = self._sign(subject, key, ca=False, days=days)
        identity.cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        identity.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return identity


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"), "good")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"), "stranger")


def channel(server: EchoServer, authority: Authority, identity: Identity | None = None) -> grpc.Channel:
    credentials = grpc.ssl_channel_credentials(
        authority.file.read_bytes(),
        identity.key.read_bytes() if identity else None,
        identity.cert.read_bytes() if identity else None,
    )
    return grpc.secure_channel(f"localhost:{server.port}", credentials, UNLIMITED)


@pytest.fixture
def tls_server(start_server: StartServer, authority: Authority) -> EchoServer:
    identity = authority.issue("server")
    return start_server(cert=identity.cert, key=identity.key, event_loops=2)


def assert_refused(opened: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        echo(opened)(b"x", timeout=10)
    assert raised.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


def test_calls_and_streams(tls_server: EchoServer, authority: Authority) -> None:
    with channel(tls_server, authority) as opened:
        for size in (0, 1, 16_000, 16_384, 17_000, 1_000_000, 32 * 1024 * 1024):
            request = os.urandom(size)
            assert echo(opened, "Sliced")(request, timeout=TIMEOUT_S) == request
        sent = [os.urandom(number * 10) for number in range(1000)]
        assert list(opened.stream_stream(method("BidiThreaded"))(iter(sent), timeout=TIMEOUT_S)) == sent
        calls = [echo(opened, "Threaded").future(b"%d" % number, timeout=TIMEOUT_S) for number in range(500)]
        assert [call.result() for call in calls] == [b"%d" % number for number in range(500)]
        assert tls_server.command("drain 60000") == {"drained": True}


def test_wrong_authority_is_refused_by_the_client(tls_server: EchoServer, stranger: Authority) -> None:
    with channel(tls_server, stranger) as opened:
        assert_refused(opened)
    wait_until(lambda: "handshake failed" in tls_server.log_text(), "the server noticed")


def test_cleartext_and_rubbish_are_closed(tls_server: EchoServer, authority: Authority) -> None:
    for data in (PREFACE + frame(SETTINGS, 0, 0), b"\x16\x03\x01\xff\xff" + b"x" * 70_000, b"\0" * 100):
        with socket.create_connection(("127.0.0.1", tls_server.port), timeout=TIMEOUT_S) as raw:
            # The server may be faster than our last bytes.
            with contextlib.suppress(OSError):
                raw.sendall(data)
                raw.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionError):
                while raw.recv(4096):  # a timeout here fails the test: the server did not close
                    pass
    with channel(tls_server, authority) as opened:
        assert echo(opened)(b"alive", timeout=TIMEOUT_S) == b"alive"


def client_context(authority: Authority) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.file))
    context.set_alpn_protocols(["h2"])
    return context


def handshake(server: EchoServer, context: ssl.SSLContext) -> str | None:
    """Completes a handshake and waits for the first byte; the version of TLS."""
    with (
        socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT_S) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as wrapped,
    ):
        wrapped.sendall(PREFACE + frame(SETTINGS, 0, 0))
        assert wrapped.recv(9)
        return wrapped.version()


def test_versions_and_protocols(tls_server: EchoServer, authority: Authority) -> None:
    for version, name in ((ssl.TLSVersion.TLSv1_2, "TLSv1.2"), (ssl.TLSVersion.TLSv1_3, "TLSv1.3")):
        context = client_context(authority)
        context.minimum_version = context.maximum_version = version
        assert handshake(tls_server, context) == name
    for protocols in (["http/1.1"], []):
        context = ssl.create_default_context(cafile=str(authority.file))
        if protocols:
            context.set_alpn_protocols(protocols)
        with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
            handshake(tls_server, context)


def test_old_tls_is_refused(tls_server: EchoServer, authority: Authority) -> None:
    context = client_context(authority)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        handshake(tls_server, context)


def test_slow_tls_handshake_is_ended(start_server: StartServer, authority: Authority) -> None:
    identity = authority.issue("slow")
    server = start_server(cert=identity.cert, key=identity.key, handshake_timeout_ms=300)
    with socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT_S) as raw:
        raw.sendall(b"\x16\x03\x01")
        assert raw.recv(1) == b""
    wait_until(lambda: server.stats()["connections_open"] == 0, "the connection is gone")


def test_mtls(start_server: StartServer, authority: Authority, stranger: Authority) -> None:
    identity = authority.issue("mutual")
    server = start_server(cert=identity.cert, key=identity.key, ca=authority.file)
    with channel(server, authority, authority.issue("client")) as opened:
        assert echo(opened)(b"x", timeout=TIMEOUT_S) == b"x"
    for wrong in (None, stranger.issue("client"), authority.issue("expired", days=-1)):
        with channel(server, authority, wrong) as opened:
            assert_refused(opened)
    for reason in ("peer did not return a certificate", "unable to get local issuer", "certificate has expired"):
        wait_until(lambda wanted=reason: wanted in server.log_text(), reason)


@pytest.mark.parametrize("missing", ["cert", "key", "ca"])
def test_files_that_cannot_be_used_are_named(authority: Authority, missing: str, tmp_path: Path) -> None:
    identity = authority.issue("files")
    files = {"cert": identity.cert, "key": identity.key, "ca": authority.file}
    files[missing] = tmp_path / "not-there.pem"
    flags = [f"--{name}={path}" for name, path in files.items()]
    ended = subprocess.run([str(server_binary()), *flags], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert "not-there.pem" in ended.stderr


def test_key_of_another_certificate_is_named(authority: Authority) -> None:
    one, two = authority.issue("one"), authority.issue("two")
    flags = [f"--cert={one.cert}", f"--key={two.key}"]
    ended = subprocess.run([str(server_binary()), *flags], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert "two.key" in ended.stderr
