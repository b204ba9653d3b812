"""Which transactions may be sent twice, what a failed call means, and the order of changes."""

from __future__ import annotations

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving._proto import etcd_pb2 as pb
from serving.config import EtcdConfig
from serving.errors import InvalidArgument, MeshError, PermissionDenied, StoreUnavailable, Unauthenticated
from serving.store.faults import Cure, RevisionGone, fault_of_status
from serving.store.transport import Line, Transport, target_of
from serving.store.txn import applied_at, is_self_guarding, keys_to_read, reads_only
from serving.store.types import Compare, KeyValue, Op
from serving.store.watch import changes_of
from serving.store.wire import MAX_REQUEST_BYTES, check_size

PUT = Op.put("/a", b"1")
DELETE = Op.delete("/a")


@pytest.mark.parametrize(
    ("compare", "op", "guarding"),
    [
        (Compare.absent("/a"), PUT, True),
        (Compare.mod_revision("/a", 3), PUT, True),
        (Compare.mod_revision("/a", 3), DELETE, True),
        (Compare.mod_revision("/a", 0), DELETE, False),
        (Compare.mod_before("/a", 3), PUT, True),
        (Compare.value("/a", b"0"), PUT, True),
        (Compare.value("/a", b"1"), PUT, False),
        (Compare.value("/a", b"0"), DELETE, True),
        (Compare.exists("/a"), DELETE, True),
        (Compare.exists("/a"), PUT, False),
        (Compare.absent("/a"), DELETE, False),
        (Compare.absent("/b"), PUT, False),
        (Compare.exists("/fence"), PUT, False),
    ],
)
def test_self_guarding(compare: Compare, op: Op, guarding: bool) -> None:
    assert is_self_guarding([compare], [op], []) is guarding
    assert is_self_guarding([Compare.exists("/fence"), compare], [op, Op.put("/z", b"")], []) is guarding
    assert not is_self_guarding([compare], [op], [Op.put("/other", b"")])


def test_reads_only() -> None:
    assert reads_only([Op.get("/a")], [Op.get_prefix("/b")])
    assert not reads_only([Op.get("/a")], [DELETE])


def kv(key: str, value: bytes, revision: int, lease: int = 0) -> KeyValue:
    return KeyValue(key, value, revision, revision, 1, lease)


@pytest.mark.parametrize(
    ("then", "found", "revision"),
    [
        ([PUT], [kv("/a", b"1", 8)], 8),
        ([PUT], [kv("/a", b"2", 8)], None),
        ([PUT], [kv("/a", b"1", 5)], None),  # the same value, but from before
        ([PUT], [kv("/a", b"1", 8, lease=4)], None),
        ([PUT], [], None),
        ([PUT, Op.put("/b", b"2")], [kv("/a", b"1", 8), kv("/b", b"2", 8)], 8),
        ([PUT, Op.put("/b", b"2")], [kv("/a", b"1", 8), kv("/b", b"2", 9)], None),
        ([PUT, Op.delete("/b")], [kv("/a", b"1", 8)], 8),
        ([PUT, Op.delete("/b")], [kv("/a", b"1", 8), kv("/b", b"", 2)], None),
        ([DELETE], [], 5),
        ([Op.get("/a")], [], None),
    ],
)
def test_reading_back(then: list[Op], found: list[KeyValue], revision: int | None) -> None:
    assert applied_at(then, {item.key: item for item in found}, after_revision=5) == revision


def test_keys_to_read() -> None:
    assert keys_to_read([PUT, Op.get("/g"), Op.delete("/d"), Op.delete_prefix("/p/")]) == ("/a", "/d")


CODE = grpc.StatusCode


@pytest.mark.parametrize(
    ("code", "details", "error", "cure", "maybe"),
    [
        (CODE.UNAUTHENTICATED, "etcdserver: invalid auth token", Unauthenticated, Cure.LOGIN, False),
        (CODE.INVALID_ARGUMENT, "etcdserver: user name is empty", Unauthenticated, Cure.LOGIN, False),
        (CODE.INVALID_ARGUMENT, "etcdserver: revision of auth store is old", Unauthenticated, Cure.LOGIN, False),
        (
            CODE.INVALID_ARGUMENT,
            "etcdserver: authentication failed, invalid user ID or password",
            Unauthenticated,
            Cure.NONE,
            False,
        ),
        (CODE.PERMISSION_DENIED, "etcdserver: permission denied", PermissionDenied, Cure.NONE, False),
        (CODE.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted", RevisionGone, Cure.NONE, False),
        (CODE.UNAVAILABLE, "etcdserver: no leader", StoreUnavailable, Cure.ELSEWHERE, False),
        (CODE.UNAVAILABLE, "failed to connect to all addresses; ...", StoreUnavailable, Cure.ELSEWHERE, False),
        (CODE.UNAVAILABLE, "etcdserver: request timed out", StoreUnavailable, Cure.ELSEWHERE, True),
        (CODE.UNAVAILABLE, "Socket closed", StoreUnavailable, Cure.ELSEWHERE, True),
        (CODE.DEADLINE_EXCEEDED, "Deadline Exceeded", StoreUnavailable, Cure.ELSEWHERE, True),
        (CODE.RESOURCE_EXHAUSTED, "etcdserver: too many requests", StoreUnavailable, Cure.WAIT, False),
        (CODE.INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request", InvalidArgument, Cure.NONE, False),
    ],
)
def test_the_table_of_faults(
    code: grpc.StatusCode, details: str, error: type[MeshError], cure: Cure, maybe: bool
) -> None:
    fault = fault_of_status(code, details, "put /a", "e1:1")
    assert (type(fault.error), fault.cure, fault.applied_maybe) == (error, cure, maybe)
    assert "e1:1" in fault.error.message
    assert "put /a" in fault.error.message
    assert details in fault.error.message


@pytest.mark.parametrize(
    ("endpoint", "target"),
    [
        ("127.0.0.1:2379", "ipv4:127.0.0.1:2379"),
        ("[::1]:2379", "ipv6:[::1]:2379"),
        ("etcd-0.example:2379", "dns:///etcd-0.example:2379"),
    ],
)
def test_targets(endpoint: str, target: str) -> None:
    assert target_of(endpoint) == target


@pytest.mark.parametrize(
    "endpoint", ["", "host", "host:", ":2379", "http://host:2379", "host:0", "host:70000", "::1:2379"]
)
def test_malformed_endpoints_are_named(endpoint: str) -> None:
    with pytest.raises(InvalidArgument, match="no etcd endpoint"):
        target_of(endpoint)


async def test_failed_endpoints_are_passed_over_and_come_back() -> None:
    now_s = [0.0]
    transport = Transport(EtcdConfig(endpoints=("a:1", "b:1")), monotonic=lambda: now_s[0])

    async def best() -> Line:
        async with transport.line() as line:
            return line

    first = await best()
    assert await best() is first  # sticks to it
    transport.failed(first, timed_out=False)
    second = await best()
    assert second.endpoint != first.endpoint
    transport.failed(second, timed_out=False)
    assert not transport.healthy_left()
    now_s[0] += 60
    assert await best() is first
    transport.succeeded(first)
    await transport.close()


async def test_a_line_that_only_times_out_is_replaced_but_not_under_its_user() -> None:
    transport = Transport(EtcdConfig(endpoints=("a:1",)))
    async with transport.line() as line:
        transport.failed(line, timed_out=True)
        transport.failed(line, timed_out=True)
        assert line.replaced
        assert line.channel.get_state() is not grpc.ChannelConnectivity.SHUTDOWN
        async with transport.line() as fresh:
            assert fresh is not line
    await transport.close()
    with pytest.raises(MeshError, match="closed"):
        async with transport.line():
            pass


def event(key: str, revision: int, *, put: bool = True) -> pb.Event:
    kind = pb.Event.PUT if put else pb.Event.DELETE
    return pb.Event(type=kind, kv=pb.KeyValue(key=key.encode(), value=b"%d" % revision, mod_revision=revision))


def test_changes_hold_the_last_state_of_each_key_in_order() -> None:
    changes = changes_of(
        [event("/a", 4), event("/b", 5), event("/a", 6, put=False), event("/c", 7), event("/b", 8)], after_revision=3
    )
    assert changes is not None
    assert [item.key for item in changes.puts] == ["/c", "/b"]
    assert changes.deletes == ("/a",)
    assert changes.revision == 8


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=20), st.integers(0, 25))
def test_events_that_are_known_already_do_not_come_twice(steps: list[tuple[str, bool]], known: int) -> None:
    events = [event(key, number + 1, put=put) for number, (key, put) in enumerate(steps)]
    changes = changes_of(events, after_revision=known)
    newer = {key: put for number, (key, put) in enumerate(steps) if number + 1 > known}
    if changes is None:
        assert not newer
        return
    assert {kv.key for kv in changes.puts} == {key for key, put in newer.items() if put}
    assert set(changes.deletes) == {key for key, put in newer.items() if not put}
    assert all(kv.mod_revision > known for kv in changes.puts)


def test_a_value_that_is_too_big_is_named_with_its_size() -> None:
    request = pb.PutRequest(key=b"/a", value=b"x" * MAX_REQUEST_BYTES)
    with pytest.raises(InvalidArgument, match=rf"txn of /a: {request.ByteSize()} bytes"):
        check_size(request, "txn of /a")
