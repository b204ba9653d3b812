"""Uploads that are wrong, cut off, slow, too many, or meet a full disk or a dead gateway: nothing is left of them."""

from __future__ import annotations

import asyncio
import http.client
import os
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from serving.batch.store.content import ContentStore
from serving.batch.store.files import FileBook, FileLimits, file_record, new_file_id
from serving.batch.store.sweeping import LEFTOVER_S, Sweeper
from serving.local.etcd import EtcdCluster
from serving.store import EtcdClient, keys
from tests.support.etcd_server import StartEtcd
from tests.support.llm_serving import GatewayProcess
from tests.support.stored import stored_keys
from tests.support.waiting import eventually

BOUNDARY = "xyz"
FORM = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, etcd: EtcdCluster, folder: Path) -> Iterator[GatewayProcess]:
    limits = {"max_uploads": 3}
    settings = {"leave_s": 0.0, "batch_store": str(folder), "batch_limits": limits}
    running = GatewayProcess(tmp_path_factory.mktemp("gateway"), etcd.config(), **settings)
    yield running
    faults = [line for line in running.log().splitlines() if "internal failure" in line]
    running.end()
    assert not faults, faults[0]


def part(name: str, data: bytes, filename: str | None = None, extra: str = "") -> bytes:
    given = f'; filename="{filename}"' if filename is not None else ""
    head = f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="{name}"{given}\r\n{extra}\r\n'
    return head.encode() + data + b"\r\n"


END = f"--{BOUNDARY}--\r\n".encode()
PURPOSE = part("purpose", b"batch")
FILE = part("file", b"{}\n", "a.jsonl")


def contents(folder: Path) -> list[Path]:
    """Of files and of uploads."""
    return [path for path in folder.rglob("*") if path.is_file()]


def sent(gateway: GatewayProcess, body: bytes, **headers: str) -> httpx.Response:
    return httpx.post(f"{gateway.url}/v1/files", content=body, headers=FORM | headers, timeout=60)


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        (b"", None, "invalid_form"),
        (b"rubbish", None, "invalid_form"),
        (PURPOSE + FILE, None, "invalid_form"),
        (PURPOSE + FILE[:-2], None, "invalid_form"),
        (PURPOSE + part("file", b"x", "a", extra="no colon\r\n") + END, None, "invalid_form"),
        (PURPOSE + part("file", b"x", "a", extra=f"x: {'y' * 9000}\r\n") + END, None, "invalid_form"),
        (PURPOSE + END, "file", "missing_required_parameter"),
        (FILE + END, "purpose", "missing_required_parameter"),
        (PURPOSE + part("file", b"", "a") + END, "file", "invalid_value"),
        (PURPOSE + part("file", b"x") + END, "file", "invalid_type"),
        (PURPOSE + part("file", b"x", "") + END, "file", "invalid_type"),
        (PURPOSE + FILE + FILE + END, "file", "invalid_value"),
        (PURPOSE + PURPOSE + FILE + END, "purpose", "invalid_value"),
        (PURPOSE + part("other", b"x") + FILE + END, "other", "unknown_parameter"),
        (part("purpose", b"x" * 2000) + FILE + END, "purpose", "invalid_value"),
        (part("purpose", b"fine-tune") + FILE + END, "purpose", "invalid_value"),
        (part("purpose", b"batch_output") + FILE + END, "purpose", "invalid_value"),
        (part("purpose", b"\xff\xfe") + FILE + END, "purpose", "invalid_value"),
        (PURPOSE + part("expires_after[anchor]", b"now") + FILE + END, "expires_after[anchor]", "invalid_value"),
        (
            PURPOSE + part("expires_after[anchor]", b"created_at") + FILE + END,
            "expires_after[seconds]",
            "invalid_value",
        ),
    ],
)
def test_a_wrong_form_is_named(
    gateway: GatewayProcess, folder: Path, body: bytes, param: str | None, code: str
) -> None:
    before = contents(folder)
    answer = sent(gateway, body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, param, code), error
    assert contents(folder) == before


@pytest.mark.parametrize("name", ["idna''%ff", "undefined''x", "a\0''x", "unicode_escape''%5Cud800", "utf-8''%ff%00"])
def test_a_filename_in_any_charset_is_answered(gateway: GatewayProcess, name: str) -> None:
    head = f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="file"; filename*={name}\r\n\r\nx\r\n'
    answer = sent(gateway, PURPOSE + head.encode() + END)
    assert answer.status_code == (200 if name.startswith("utf-8") else 400), answer.text


def test_what_is_no_form(gateway: GatewayProcess) -> None:
    for headers in ({"content-type": "application/json"}, {"content-type": "multipart/form-data"}):
        assert sent(gateway, PURPOSE + FILE + END, **headers).status_code == 400
    assert sent(gateway, PURPOSE + FILE + END, **{"content-encoding": "gzip"}).status_code == 400
    assert sent(gateway, PURPOSE + FILE + END, **{"idempotency-key": "x" * 300}).status_code == 400
    assert httpx.put(f"{gateway.url}/v1/files").status_code == 405


def test_fields_behind_the_file_count(gateway: GatewayProcess) -> None:
    answer = sent(gateway, b"before\r\n" + FILE + PURPOSE + END + b"behind")
    assert answer.status_code == 200, answer.text
    assert answer.json()["bytes"] == 3
    assert answer.json()["expires_at"] == answer.json()["created_at"] + 30 * 24 * 3600


def begun(gateway: GatewayProcess, data: bytes, declared: int, *, key: str = "") -> socket.socket:
    """An upload that has sent its head and some of its body."""
    address = urlsplit(gateway.url)
    assert address.hostname is not None
    made = socket.create_connection((address.hostname, address.port or 0), 30)
    headers = f"host: x\r\ncontent-type: {FORM['content-type']}\r\ncontent-length: {declared}"
    headers += f"\r\nidempotency-key: {key}" if key else ""
    made.sendall(f"POST /v1/files HTTP/1.1\r\n{headers}\r\n\r\n".encode() + data)
    return made


def uploads(folder: Path) -> list[Path]:
    return list((folder / "uploads").iterdir())


BODY = PURPOSE + part("file", b"x" * 3_000_000, "a") + END


def test_an_upload_that_is_cut_off_leaves_nothing(gateway: GatewayProcess, folder: Path) -> None:
    before = contents(folder)
    with closing(begun(gateway, BODY[:2_500_000], len(BODY))):
        eventually(lambda: uploads(folder), timeout_s=30, what="the upload's file")
    eventually(lambda: contents(folder) == before, timeout_s=30, what="nothing of it")


def test_slow_uploads_hold_up_nobody_and_are_bounded(gateway: GatewayProcess, folder: Path) -> None:
    slow = [begun(gateway, BODY[: 1000 * n + 500], len(BODY)) for n in range(3)]
    try:
        eventually(lambda: len(uploads(folder)) == 3, timeout_s=30, what="three uploads")
        refused = sent(gateway, PURPOSE + FILE + END)
        assert (refused.status_code, refused.headers.get("retry-after")) == (429, "1")
        assert httpx.get(f"{gateway.url}/v1/files").status_code == 200
        slow[0].sendall(BODY[500:])  # goes on as if nothing had been
        answer = http.client.HTTPResponse(slow[0])
        answer.begin()
        assert answer.status == 200
    finally:
        for one in slow:
            one.close()
    eventually(lambda: not uploads(folder), timeout_s=30, what="nothing of the others")
    assert sent(gateway, PURPOSE + FILE + END).status_code == 200


def test_a_large_upload_takes_no_memory(gateway: GatewayProcess) -> None:
    def most_kb() -> int:
        lines = Path(f"/proc/{gateway.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

    sent(gateway, PURPOSE + part("file", b"x" * 5_000_000, "a") + END)
    before = most_kb()
    body = iter([PURPOSE, part("file", b"", "a")[:-2], *[b"x" * 1_000_000] * 100, b"\r\n" + END])
    answer = httpx.post(f"{gateway.url}/v1/files", content=body, headers=FORM, timeout=120)
    assert answer.json()["bytes"] == 100_000_000
    with httpx.stream("GET", f"{gateway.url}/v1/files/{answer.json()['id']}/content", timeout=120) as download:
        assert sum(len(piece) for piece in download.iter_raw()) == 100_000_000
    assert most_kb() - before < 30_000
    httpx.delete(f"{gateway.url}/v1/files/{answer.json()['id']}")


def test_a_full_disk_answers_507_and_keeps_nothing(gateway: GatewayProcess, folder: Path, etcd: EtcdCluster) -> None:
    before, records = contents(folder), stored_keys(etcd.config(), keys.FILES)
    limits = resource.prlimit(gateway.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(gateway.pid, resource.RLIMIT_FSIZE, (1_500_000, limits[1]))  # as a disk that has no more room
    try:
        answer = sent(gateway, BODY)
    finally:
        resource.prlimit(gateway.pid, resource.RLIMIT_FSIZE, limits)
    assert (answer.status_code, answer.json()["error"]["code"]) == (507, "insufficient_storage")
    assert answer.headers["x-should-retry"] == "false"
    assert contents(folder) == before
    assert stored_keys(etcd.config(), keys.FILES) == records
    assert sent(gateway, BODY).status_code == 200


def test_more_than_the_disk_has_is_refused_before_it_is_sent(tmp_path: Path, etcd: EtcdCluster) -> None:
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    limits = {"max_file_bytes": 4 * free, "max_input_bytes": 4 * free}
    gateway = GatewayProcess(tmp_path, etcd.config(), batch_store=str(tmp_path / "s"), batch_limits=limits, leave_s=0.0)
    try:
        with closing(begun(gateway, PURPOSE, 2 * free)) as connection:
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            assert answer.status == 507
    finally:
        gateway.end()


def test_a_gateway_that_is_killed_in_an_upload(tmp_path: Path, etcd: EtcdCluster) -> None:
    """Nothing of it is a file; what it left is swept, and the next gateway takes it again."""
    folder = tmp_path / "store"
    settings: dict[str, Any] = {"batch_store": str(folder), "leave_s": 0.0}
    records = stored_keys(etcd.config(), keys.FILES)
    gateway = GatewayProcess(tmp_path, etcd.config(), "first", **settings)
    with closing(begun(gateway, BODY[:2_500_000], len(BODY))):
        eventually(lambda: any(path.stat().st_size for path in uploads(folder)), timeout_s=30, what="some of it")
        gateway.kill()
    assert stored_keys(etcd.config(), keys.FILES) == records
    assert len(uploads(folder)) == 1
    gateway = GatewayProcess(tmp_path, etcd.config(), "second", **settings)
    try:
        made = sent(gateway, BODY).json()
        assert made["bytes"] == 3_000_000
    finally:
        gateway.end()
    assert len(uploads(folder)) == 1
    swept(etcd, folder, time.time())
    assert len(uploads(folder)) == 1  # it might still be written
    swept(etcd, folder, time.time() + LEFTOVER_S + 60)
    assert not uploads(folder)
    assert len(contents(folder)) == 1  # what has a record


def test_an_upload_whose_record_cannot_be_written_leaves_nothing(tmp_path: Path, own_etcd: StartEtcd) -> None:
    """etcd goes away while it is sent."""
    folder, etcd = tmp_path / "store", own_etcd()
    gateway = GatewayProcess(tmp_path, etcd.config(), batch_store=str(folder), leave_s=0.0)
    try:
        with closing(begun(gateway, BODY[:2_500_000], len(BODY))) as upload:
            eventually(lambda: any(path.stat().st_size for path in uploads(folder)), timeout_s=60, what="some of it")
            etcd.kill()
            upload.settimeout(150)
            upload.sendall(BODY[2_500_000:])
            answer = http.client.HTTPResponse(upload)
            answer.begin()
            assert answer.status == 503
        assert not contents(folder)
    finally:
        gateway.end()


def test_at_a_limit_nothing_more_is_taken_but_what_is_there(tmp_path: Path, etcd: EtcdCluster) -> None:
    there = len(stored_keys(etcd.config(), keys.files("default")))
    limits = {"max_files": there + 1}
    gateway = GatewayProcess(tmp_path, etcd.config(), batch_store=str(tmp_path / "s"), batch_limits=limits, leave_s=0.0)
    try:
        made = sent(gateway, PURPOSE + FILE + END, **{"idempotency-key": "one"}).json()
        assert sent(gateway, PURPOSE + FILE + END, **{"idempotency-key": "one"}).json() == made
        for key in ("two", ""):  # refused before it is sent
            with closing(begun(gateway, PURPOSE, len(BODY), key=key)) as upload:
                answer = http.client.HTTPResponse(upload)
                answer.begin()
                assert answer.status == 429
        httpx.delete(f"{gateway.url}/v1/files/{made['id']}")
    finally:
        gateway.end()


def swept(etcd: EtcdCluster, folder: Path, now: float) -> None:
    async def sweep() -> None:
        store = EtcdClient(etcd.config())
        try:  # by two at once
            sweepers = [Sweeper(store, ContentStore(str(folder)), keep_ended_s=1e9, max_ended=99) for _ in range(2)]
            await asyncio.gather(*(one.sweep(now) for one in sweepers))
        finally:
            await store.close()

    asyncio.run(sweep())


async def test_what_has_expired_is_gone_at_once_and_swept_later(
    store: EtcdClient, gateway: GatewayProcess, folder: Path
) -> None:
    content, namespace = ContentStore(str(folder)), "default"
    book = FileBook(store, content, FileLimits(1000, 1 << 30))
    now = time.time()
    made = []
    for expires_after_s in (1, 5000, 0):
        writing = content.begin()
        writing.write(b"data")
        kept = writing.keep(namespace)
        given: dict[str, Any] = {"now": now - 100, "expires_after_s": expires_after_s}
        record = file_record(namespace, new_file_id(), kept, filename="f", purpose="batch", **given)
        made.append((await book.create(record, now))[0])
    async with httpx.AsyncClient(base_url=gateway.url) as client:
        told = [(await client.get(f"/v1/files/{one.id}")).status_code for one in made]
        listed = [one["id"] for one in (await client.get("/v1/files")).json()["data"]]
    assert told == [404, 200, 200]
    assert [one.id in listed for one in made] == [False, True, True]
    sweepers = [Sweeper(store, content, keep_ended_s=1e9, max_ended=99) for _ in range(2)]
    done = await asyncio.gather(*(one.sweep(now) for one in sweepers))
    assert sum(one.files for one in done) == 1
    assert [content.path(one.uri).exists() for one in made] == [False, True, True]


def test_many_uploads_at_once_keep_to_the_limit(tmp_path: Path, etcd: EtcdCluster) -> None:
    """At two gateways, of a tenant that has other files."""
    there = len(stored_keys(etcd.config(), keys.files("default")))
    settings = {"batch_store": str(tmp_path / "s"), "leave_s": 0.0, "batch_limits": {"max_files": there + 5}}
    gateways = [GatewayProcess(tmp_path, etcd.config(), f"g{n}", **settings) for n in range(2)]
    answers: list[int] = []
    try:
        tries = [
            threading.Thread(target=lambda n=n: answers.append(sent(gateways[n % 2], PURPOSE + FILE + END).status_code))
            for n in range(12)
        ]
        for one in tries:
            one.start()
        for one in tries:
            one.join()
    finally:
        for gateway in gateways:
            gateway.end()
    assert sorted(answers) == [200] * 5 + [429] * 7
    assert len(contents(tmp_path / "s")) == 5
