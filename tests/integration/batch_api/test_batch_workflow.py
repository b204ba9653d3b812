"""The `openai` package's own files and batches against real gateways; a runner's seam answers in the test."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from serving._proto import batch_pb2 as pb
from serving.batch.orders.claims import read_batch
from serving.local.etcd import EtcdCluster
from serving.store import EtcdClient
from tests.support.batch_seam import SeamRunner, outcome
from tests.support.llm_serving import GatewayProcess
from tests.support.mesh import ROOT

ENDPOINT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def gateways(
    tmp_path_factory: pytest.TempPathFactory, etcd: EtcdCluster, folder: Path
) -> Iterator[list[GatewayProcess]]:
    """Two on one store."""
    logs = tmp_path_factory.mktemp("gateways")
    limits = {"max_files": 40, "max_input_bytes": 2_000_000, "max_file_bytes": 3_000_000}
    settings = {"leave_s": 0.0, "batch_store": folder.as_uri(), "batch_limits": limits}
    made = [GatewayProcess(logs, etcd.config(), name=f"gateway{n}", **settings) for n in range(2)]
    try:
        for one in made:
            assert one.url
        yield made
        for one in made:
            faults = [line for line in one.log().splitlines() if "internal failure" in line]
            assert not faults, faults[0]
    finally:
        for one in made:
            one.end()


@pytest.fixture
def client(gateways: list[GatewayProcess]) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateways[0].url}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture
def other(gateways: list[GatewayProcess]) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateways[1].url}/v1", api_key="none", max_retries=0) as made:
        yield made


def lines(count: int, **body: Any) -> bytes:
    made = [
        {"custom_id": f"c{n}", "method": "POST", "url": ENDPOINT, "body": {"model": "m", "messages": [], **body}}
        for n in range(count)
    ]
    return "".join(json.dumps(one) + "\n" for one in made).encode()


def uploaded(client: openai.OpenAI, data: bytes = lines(3)) -> str:
    return client.files.create(file=("in.jsonl", data), purpose="batch").id


def answer(etcd: EtcdCluster, folder: Path, batch_id: str) -> None:
    """What a runner does with a batch of three lines, in small."""
    lines_of_output = [outcome(f"c{number}") for number in range(3)]
    asyncio.run(SeamRunner(etcd.config(), folder).end(batch_id, pb.COMPLETED, total=3, output=lines_of_output))


def test_the_whole_workflow(
    client: openai.OpenAI, other: openai.OpenAI, etcd: EtcdCluster, folder: Path, tmp_path: Path
) -> None:
    data = lines(3)
    (tmp_path / "in.jsonl").write_bytes(data)
    with (tmp_path / "in.jsonl").open("rb") as file:
        sent = client.files.create(file=file, purpose="batch", expires_after={"anchor": "created_at", "seconds": 7200})
    assert (sent.object, sent.bytes, sent.filename, sent.purpose) == ("file", len(data), "in.jsonl", "batch")
    assert sent.expires_at == sent.created_at + 7200
    assert other.files.retrieve(sent.id) == sent
    assert other.files.content(sent.id).read() == data
    batch = client.batches.create(
        input_file_id=sent.id, endpoint=ENDPOINT, completion_window="24h", metadata={"for": "test"}
    )
    assert (batch.status, batch.completion_window, batch.metadata) == ("validating", "24h", {"for": "test"})
    assert batch.expires_at == batch.created_at + 24 * 3600
    with pytest.raises(openai.ConflictError, match=batch.id):
        other.files.delete(sent.id)
    answer(etcd, folder, batch.id)
    done = other.batches.retrieve(batch.id)
    assert done.status == "completed"
    assert done.completed_at is not None
    assert done.request_counts is not None
    assert (done.request_counts.total, done.request_counts.completed) == (3, 3)
    assert done.output_file_id is not None
    assert len(client.files.content(done.output_file_id).text.splitlines()) == 3
    assert next(iter(client.files.list(purpose="batch_output"))).id == done.output_file_id
    assert other.files.delete(sent.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(sent.id)
    with pytest.raises(openai.ConflictError):
        client.batches.cancel(batch.id)


def test_a_batch_that_nobody_began_is_cancelled_at_once(client: openai.OpenAI, other: openai.OpenAI) -> None:
    batch = client.batches.create(input_file_id=uploaded(client), endpoint=ENDPOINT, completion_window="24h")
    assert other.batches.cancel(batch.id).status == "cancelled"
    told = client.batches.cancel(batch.id)
    assert (told.status, told.cancelled_at) == ("cancelled", told.cancelling_at)


def test_pages_of_batches(client: openai.OpenAI) -> None:
    file = uploaded(client)
    made = [client.batches.create(input_file_id=file, endpoint=ENDPOINT, completion_window="24h").id for _ in range(5)]
    page = client.batches.list(limit=2)
    assert ([one.id for one in page.data], page.has_more) == (made[:-3:-1], True)
    listed = [one.id for one in client.batches.list(limit=2)]  # which asks for all pages
    assert listed[:5] == made[::-1]
    assert len(set(listed)) == len(listed)


def test_pages_of_files(client: openai.OpenAI) -> None:
    made = [uploaded(client, b"{}\n" * (n + 1)) for n in range(3)]
    assert [one.id for one in client.files.list(limit=2)][:3] == made[::-1]
    assert [one.id for one in client.files.list(limit=2, order="asc")][-3:] == made
    assert all(one.purpose == "batch" for one in client.files.list(purpose="batch"))
    assert client.files.list(purpose="fine-tune").data == []


def test_whoever_asks_again_gets_what_it_made(client: openai.OpenAI, other: openai.OpenAI) -> None:
    again = {"idempotency-key": f"key-{time.time()}"}
    first, second = (
        one.files.create(file=("a", b"{}"), purpose="batch", extra_headers=again) for one in (client, other)
    )
    assert first == second
    with pytest.raises(openai.ConflictError, match="idempotency"):
        client.files.create(file=("a", b"{} "), purpose="batch", extra_headers=again)
    assert client.files.content(first.id).read() == b"{}"
    wish: dict[str, Any] = {"input_file_id": first.id, "endpoint": ENDPOINT, "extra_headers": again}
    made, repeated = (one.batches.create(**wish, completion_window="24h") for one in (client, other))
    assert made == repeated
    with pytest.raises(openai.ConflictError, match="completion_window"):
        client.batches.create(**wish, completion_window="1h")  # type: ignore[arg-type]


def test_an_order_that_is_sent_again_is_answered_when_its_input_has_gone(client: openai.OpenAI) -> None:
    wish: dict[str, Any] = {"input_file_id": uploaded(client), "endpoint": ENDPOINT, "completion_window": "24h"}
    wish["extra_headers"] = {"idempotency-key": f"key-{time.time()}"}
    made = client.batches.create(**wish)
    client.batches.cancel(made.id)
    client.files.delete(wish["input_file_id"])
    assert client.batches.create(**wish).id == made.id
    with pytest.raises(openai.BadRequestError, match="there is no file"):
        client.batches.create(**wish | {"extra_headers": {"idempotency-key": f"other-{time.time()}"}})


def test_a_file_is_deleted_or_read_and_never_both(client: openai.OpenAI, other: openai.OpenAI) -> None:
    """At two gateways at once."""
    for _ in range(8):
        file = uploaded(client, b"{}")
        wish: dict[str, Any] = {"input_file_id": file, "endpoint": ENDPOINT, "completion_window": "24h"}
        with ThreadPoolExecutor(2) as threads:
            ordering = threads.submit(_or_error, lambda wish=wish: client.batches.create(**wish).id)
            deleting = threads.submit(_or_error, lambda file=file: other.files.delete(file).deleted)
        ordered, deleted = ordering.result(), deleting.result()
        if deleted is True:
            assert isinstance(ordered, openai.BadRequestError), ordered
        else:
            assert isinstance(deleted, openai.ConflictError), deleted
            assert isinstance(ordered, str), ordered
            assert client.files.content(file).read() == b"{}"
            client.batches.cancel(ordered)


def _or_error(ask: Callable[[], object]) -> object:
    try:
        return ask()
    except openai.APIStatusError as error:
        return error


def test_outputs_expire_where_nobody_says_when(client: openai.OpenAI, etcd: EtcdCluster) -> None:
    wish: dict[str, Any] = {"input_file_id": uploaded(client), "endpoint": ENDPOINT, "completion_window": "24h"}
    plain = client.batches.create(**wish)
    said = client.batches.create(**wish, output_expires_after={"anchor": "created_at", "seconds": 7200})

    async def kept_s(batch_id: str) -> int:
        store = EtcdClient(etcd.config())
        try:
            return (await read_batch(store, "default", batch_id)).order.output_expires_after_s
        finally:
            await store.close()

    assert [asyncio.run(kept_s(one.id)) for one in (plain, said)] == [30 * 24 * 3600, 7200]
    for one in (plain, said):
        client.batches.cancel(one.id)


def test_ranges(gateways: list[GatewayProcess], client: openai.OpenAI) -> None:
    url = f"{gateways[0].url}/v1/files/{uploaded(client, b'0123456789')}/content"
    for asked, status, body in (
        ("bytes=2-4", 206, b"234"),
        ("bytes=7-", 206, b"789"),
        ("bytes=0-99", 200, b"0123456789"),
        ("bytes=-3", 200, b"0123456789"),
        ("bytes=4-2", 200, b"0123456789"),
        ("bytes=10-", 416, None),
    ):
        answer = httpx.get(url, headers={"range": asked})
        assert (answer.status_code, body in (None, answer.content)) == (status, True), asked
    assert httpx.get(url, headers={"range": "bytes=2-4"}).headers["content-range"] == "bytes 2-4/10"


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"input_file_id": "file-" + "0" * 32}, "input_file_id"),
        ({"input_file_id": "../../x"}, "input_file_id"),
        ({"endpoint": "/v1/images"}, "endpoint"),
        ({"completion_window": "never"}, "completion_window"),
        ({"completion_window": "1s"}, "completion_window"),
        ({"completion_window": "99d"}, "completion_window"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, "output_expires_after.seconds"),
        ({"extra_body": {"mode": "alone"}}, "mode"),
    ],
)
def test_a_wrong_batch_is_named(client: openai.OpenAI, changes: dict[str, Any], param: str) -> None:
    wish = {"input_file_id": uploaded(client), "endpoint": ENDPOINT, "completion_window": "24h"} | changes
    with pytest.raises(openai.BadRequestError) as refused:
        client.batches.create(**wish)  # type: ignore[arg-type]
    assert refused.value.param == param
    assert client.files.delete(wish["input_file_id"]) if "input_file_id" not in changes else True


def test_a_batch_of_its_own_application_says_so(client: openai.OpenAI) -> None:
    wish: Any = {"input_file_id": uploaded(client), "endpoint": ENDPOINT, "completion_window": "24h"}
    key = {"idempotency-key": "own-1"}
    own = client.batches.create(**wish, extra_body={"mode": "own"}, extra_headers=key)
    assert own.model_dump()["mode"] == "own"
    assert client.batches.create(**wish, extra_body={"mode": "own"}, extra_headers=key).id == own.id
    with pytest.raises(openai.ConflictError, match="mode"):
        client.batches.create(**wish, extra_body={"mode": "shared"}, extra_headers=key)
    shared = client.batches.create(**wish, extra_body={"mode": "shared"})
    assert (shared.model_dump()["mode"], shared.model_dump()["message"]) == ("shared", None)
    for one in (own, shared):
        client.batches.cancel(one.id)


def test_an_output_is_no_input(client: openai.OpenAI, etcd: EtcdCluster, folder: Path) -> None:
    batch = client.batches.create(input_file_id=uploaded(client), endpoint=ENDPOINT, completion_window="24h")
    answer(etcd, folder, batch.id)
    output = client.batches.retrieve(batch.id).output_file_id
    assert output is not None
    with pytest.raises(openai.BadRequestError, match="purpose"):
        client.batches.create(input_file_id=output, endpoint=ENDPOINT, completion_window="24h")


@pytest.mark.parametrize("name", ["batch_1", "batch_" + "0" * 32, "%2e%2e", "x" * 3000])
def test_unknown_names(client: openai.OpenAI, name: str) -> None:
    for ask in (client.batches.retrieve, client.batches.cancel, client.files.retrieve, client.files.delete):
        with pytest.raises(openai.NotFoundError):
            ask(name)


def test_a_file_that_is_too_large_is_refused(client: openai.OpenAI, folder: Path) -> None:
    for size in (2_000_001, 3_000_001, 10_000_000):
        with pytest.raises(openai.APIStatusError) as refused:
            client.files.create(file=("big", io.BytesIO(b"x" * size)), purpose="batch")
        assert refused.value.status_code == 413
    assert list((folder / "uploads").iterdir()) == []


def test_without_a_store_nothing_is_taken(tmp_path: Path, etcd: EtcdCluster) -> None:
    gateway = GatewayProcess(tmp_path, etcd.config(), leave_s=0.0)
    try:
        for path in ("/v1/files", "/v1/batches", "/v1/batches/x/cancel"):
            answer = httpx.get(f"{gateway.url}{path}")
            assert answer.status_code == 501
            assert "batch_store" in answer.json()["error"]["message"]
    finally:
        gateway.end()


@pytest.mark.parametrize(
    ("url", "word"),
    [("s3://bucket/x", "not supported"), ("relative", "no URL"), ("file:///proc/none", "cannot be used")],
)
def test_a_store_that_cannot_be_is_refused(tmp_path: Path, etcd: EtcdCluster, url: str, word: str) -> None:
    config = {"etcd": {"endpoints": list(etcd.config().endpoints)}, "batch_store": url}
    (tmp_path / "gateway.json").write_text(json.dumps(config))
    command = [sys.executable, "-m", "serving.gateway", "--config", str(tmp_path / "gateway.json")]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode != 0
    assert word in ended.stderr
