"""A keeper with TLS and mTLS, a taken port, a wrong configuration."""

from __future__ import annotations

import datetime
import socket
import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from keeper_harness import Bench, KeeperProcess, eventually

from serving._proto import keeper_pb2 as api
from serving._proto import keeper_pb2_grpc as rpc


def certificates(folder: Path) -> None:
    """A CA (ca.pem) and one certificate for 127.0.0.1 that serves both sides (own.pem, own.key)."""
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mesh test ca")])
    now = datetime.datetime.now(datetime.timezone.utc)

    def signed(name: x509.Name, public: ec.EllipticCurvePublicKey, *, is_ca: bool) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(ca_name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        )
        return builder.sign(ca_key, hashes.SHA256())

    own = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "keeper")])
    pem = serialization.Encoding.PEM
    (folder / "ca.pem").write_bytes(signed(ca_name, ca_key.public_key(), is_ca=True).public_bytes(pem))
    (folder / "own.pem").write_bytes(signed(own, key.public_key(), is_ca=False).public_bytes(pem))
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "own.key").write_bytes(private)


async def lists(keeper: KeeperProcess, credentials: grpc.ChannelCredentials) -> bool:
    async with grpc.aio.secure_channel(keeper.address, credentials) as channel:
        stub = rpc.KeeperStub(channel)  # type: ignore[no-untyped-call]
        await stub.ListClusters(api.ListClustersRequest(), timeout=60)
        return True


async def test_mutual_tls(bench: Bench) -> None:
    folder = bench.folder
    certificates(folder)
    files = {
        f"{name}_file": str(folder / path) for name, path in (("ca", "ca.pem"), ("cert", "own.pem"), ("key", "own.key"))
    }
    keeper = await bench.keeper(tls=files)
    ca, cert, key = ((folder / name).read_bytes() for name in ("ca.pem", "own.pem", "own.key"))
    await eventually(lambda: lists(keeper, grpc.ssl_channel_credentials(ca, key, cert)))
    with pytest.raises(grpc.aio.AioRpcError):
        await lists(keeper, grpc.ssl_channel_credentials(ca))
    with pytest.raises(grpc.aio.AioRpcError):
        await keeper.stub.ListClusters(api.ListClustersRequest(), timeout=10)


def refused(*flags: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "keeper", *flags], capture_output=True, text=True, timeout=60, check=False
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def test_a_wrong_start_is_one_sentence(tmp_path: Path) -> None:
    etcd = ("--etcd", "127.0.0.1:1")
    assert refused() == (2, "keeper: say where etcd is: --etcd HOST:PORT, or --config FILE\n")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        code, text = refused(*etcd, "--listen", address)
        assert code == 1
        assert f"cannot listen on {address}: Address already in use; end what uses the port" in text
    code, text = refused(*etcd, "--tls-cert", "missing.pem", "--tls-key", "missing.key")
    assert (code, text) == (2, "keeper: tls: cannot read missing.key: No such file or directory\n")
    (tmp_path / "k.yaml").write_text("etcd: {endpoints: [a:1]}\nlistn: x\n")
    code, text = refused("--config", str(tmp_path / "k.yaml"))
    assert code == 2
    assert "did you mean `listen`?" in text
