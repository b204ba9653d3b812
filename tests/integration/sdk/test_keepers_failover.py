"""Which keeper is asked: keepers here are servers of the test that hang, lose answers or speak TLS."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from kserve_server import Service
from sdk_harness import FixedSource
from sdk_mesh import Mesh, application
from tritonclient.grpc import service_pb2_grpc

from serving._proto import keeper_pb2 as kpb
from serving._proto import keeper_pb2_grpc as krpc
from serving._proto import records_pb2 as pb
from serving.config import TlsConfig
from serving.discovery.client import InferenceClient
from serving.errors import Conflict, DeadlineExceeded, InvalidArgument, Unavailable
from serving.sdk import AsyncMeshClient
from serving.sdk import keepers as module
from serving.sdk.tensors import encode_request
from serving.store import keys
from serving.store.records import encode


class FakeKeeper(krpc.KeeperServicer):
    """Stores one spec; `lose_answers` of the next deploys are done and then answered with UNAVAILABLE."""

    def __init__(self) -> None:
        self.stored = pb.StoredSpec()
        self.lose_answers = 0
        self.hangs = False
        self.asked = 0

    async def Deploy(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.asked += 1
        if request.if_revision and request.if_revision != self.stored.revision:
            await context.abort(grpc.StatusCode.ABORTED, "another revision is the current one")
        self.stored = pb.StoredSpec(
            spec=request.spec, revision=self.stored.revision + 1, uid="u", author=request.author
        )
        if self.lose_answers:
            self.lose_answers -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "lost")
        return kpb.DeployResponse(revision=self.stored.revision, changed=True, uid="u")

    async def GetApplication(self, request: Any, context: Any) -> Any:  # noqa: N802, ARG002
        self.asked += 1
        if self.hangs:
            await asyncio.Event().wait()
        return kpb.ApplicationView(stored=self.stored)


async def serve(register: Any, credentials: grpc.ServerCredentials | None = None) -> tuple[grpc.aio.Server, str]:
    server = grpc.aio.server()
    register(server)
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    return server, f"127.0.0.1:{port}"


@pytest.fixture
async def two(mesh: Mesh) -> AsyncIterator[tuple[FakeKeeper, FakeKeeper]]:
    """Two keepers that are registered, the first one first."""
    made, servers = (FakeKeeper(), FakeKeeper()), []
    for number, keeper in enumerate(made):
        server, address = await serve(lambda target, own=keeper: krpc.add_KeeperServicer_to_server(own, target))
        servers.append(server)
        record = pb.KeeperRecord(id=str(number), address=address)
        await mesh.store.put(f"{keys.KEEPER_ELECTION}{number}", encode(record))
    yield made
    for server in servers:
        await server.stop(None)


async def test_one_that_hangs_is_left_and_remembered(
    mesh: Mesh, two: tuple[FakeKeeper, FakeKeeper], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ATTEMPT_S", 3.0)
    two[0].hangs = True
    async with AsyncMeshClient(mesh.connection) as client:
        await client.status("digits", timeout_s=60)
        before = two[0].asked, two[1].asked
        assert min(before) >= 1
        monkeypatch.setattr(module, "ATTEMPT_S", 60.0)
        for _ in range(4):
            await client.status("digits", timeout_s=60)
    assert (two[0].asked, two[1].asked) == (before[0], before[1] + 4)


async def test_all_hang(mesh: Mesh, two: tuple[FakeKeeper, FakeKeeper], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ATTEMPT_S", 0.5)
    two[0].hangs = two[1].hangs = True
    async with AsyncMeshClient(mesh.connection) as client:
        with pytest.raises(Unavailable, match=r"no keeper answered within 5 s \(asked: 127\.0\.0\.1:\d+, 127"):
            await client.status("digits", timeout_s=5)


async def test_a_damaged_record_is_passed_over(mesh: Mesh, two: tuple[FakeKeeper, FakeKeeper]) -> None:
    await mesh.store.put(f"{keys.KEEPER_ELECTION}00", b"rubbish")
    async with AsyncMeshClient(mesh.connection) as client:
        await client.status("digits")
    assert two[0].asked == 1


async def test_a_lost_answer_is_read_back(mesh: Mesh, two: tuple[FakeKeeper, FakeKeeper]) -> None:
    """The first attempt was done; its repetition meets the revision that it made itself."""
    first, second = two
    first.stored.revision = 4
    first.lose_answers = 1
    app = application(mesh.folder)
    await mesh.store.delete(f"{keys.KEEPER_ELECTION}1")
    async with AsyncMeshClient(mesh.connection) as client:
        result = await client.deploy(app, if_revision=4, author="me", timeout_s=30)
        assert (result.revision, result.changed) == (5, True)
        with pytest.raises(Conflict):
            await client.deploy(replace(app, labels={"a": "b"}), if_revision=4)
    assert second.asked == 0


def certificate(folder: Path) -> TlsConfig:
    """A certificate of its own authority for 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mesh test")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return TlsConfig(str(folder / "cert.pem"), str(folder / "cert.pem"), str(folder / "key.pem"))


def server_credentials(tls: TlsConfig) -> grpc.ServerCredentials:
    """With client certificates required."""
    pair = (Path(tls.key_file).read_bytes(), Path(tls.cert_file).read_bytes())
    return grpc.ssl_server_credentials([pair], Path(tls.ca_file).read_bytes(), require_client_auth=True)


async def test_keepers_with_mutual_tls(mesh: Mesh, tmp_path: Path) -> None:
    tls = certificate(tmp_path)
    keeper = FakeKeeper()
    server, address = await serve(
        lambda target: krpc.add_KeeperServicer_to_server(keeper, target), server_credentials(tls)
    )
    await mesh.store.put(f"{keys.KEEPER_ELECTION}0", encode(pb.KeeperRecord(id="0", address=address)))
    async with AsyncMeshClient(replace(mesh.connection, tls=tls)) as client:
        await client.status("digits")
    async with AsyncMeshClient(replace(mesh.connection, tls=TlsConfig(ca_file=tls.ca_file))) as client:
        with pytest.raises(Unavailable, match="no keeper answered"):
            await client.status("digits", timeout_s=5)
    async with AsyncMeshClient(replace(mesh.connection, tls=TlsConfig(ca_file="/gone.pem"))) as client:
        with pytest.raises(InvalidArgument, match=r"TLS file /gone\.pem cannot be read"):
            await client.status("digits")
    assert keeper.asked == 1
    await server.stop(None)


async def test_endpoints_that_say_tls_are_called_with_tls(tmp_path: Path) -> None:
    tls = certificate(tmp_path)
    server, address = await serve(
        lambda target: service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Service("one"), target),
        server_credentials(tls),
    )
    source = FixedSource(pb.Endpoint(id="one", address=address, state="ready", tls=True))
    request = encode_request("m", {"x": np.ones(2)})
    async with InferenceClient(source, tls=tls) as client:
        answer = await client.call("ModelInfer", request, timeout_s=30)
        assert answer.parameters["replica"].string_param == "one"
    async with InferenceClient(source) as client:
        with pytest.raises((Unavailable, DeadlineExceeded)):
            await client.call("ModelInfer", request, timeout_s=4)
    await server.stop(None)
