"""Between the store's own types and etcd's messages, and the paths of etcd's calls. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from google.protobuf.message import Message

from serving._proto import etcd_pb2 as pb
from serving.errors import InvalidArgument
from serving.store.types import Compare, CompareKind, KeyValue, Op, OpKind, OpResult, prefix_end

MAX_REQUEST_BYTES: Final = 1_536 * 1024  # etcd's default --max-request-bytes

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)


@dataclass(frozen=True, slots=True)
class Method(Generic[Q, R]):
    """One call of etcd's API. The path is written by hand: the stubs' own package has another name."""

    path: str
    request: type[Q]
    response: type[R]


RANGE: Final = Method("/etcdserverpb.KV/Range", pb.RangeRequest, pb.RangeResponse)
TXN: Final = Method("/etcdserverpb.KV/Txn", pb.TxnRequest, pb.TxnResponse)
COMPACT: Final = Method("/etcdserverpb.KV/Compact", pb.CompactionRequest, pb.CompactionResponse)
LEASE_GRANT: Final = Method("/etcdserverpb.Lease/LeaseGrant", pb.LeaseGrantRequest, pb.LeaseGrantResponse)
LEASE_REVOKE: Final = Method("/etcdserverpb.Lease/LeaseRevoke", pb.LeaseRevokeRequest, pb.LeaseRevokeResponse)
AUTHENTICATE: Final = Method("/etcdserverpb.Auth/Authenticate", pb.AuthenticateRequest, pb.AuthenticateResponse)
STATUS: Final = Method("/etcdserverpb.Maintenance/Status", pb.StatusRequest, pb.StatusResponse)
WATCH: Final = Method("/etcdserverpb.Watch/Watch", pb.WatchRequest, pb.WatchResponse)
KEEP_ALIVE: Final = Method("/etcdserverpb.Lease/LeaseKeepAlive", pb.LeaseKeepAliveRequest, pb.LeaseKeepAliveResponse)


def key_value(kv: pb.KeyValue) -> KeyValue:
    return KeyValue(
        key=kv.key.decode("utf-8", errors="surrogateescape"),
        value=kv.value,
        create_revision=kv.create_revision,
        mod_revision=kv.mod_revision,
        version=kv.version,
        lease=kv.lease,
    )


def key_bytes(key: str) -> bytes:
    """Raises `InvalidArgument` for the empty key."""
    if not key:
        raise InvalidArgument("a key of the store cannot be empty")
    return key.encode("utf-8", errors="surrogateescape")


def range_of_prefix(prefix: str) -> tuple[bytes, bytes]:
    start = key_bytes(prefix)
    return start, prefix_end(start)


def compare_message(compare: Compare) -> pb.Compare:
    key = key_bytes(compare.key)
    equal, less, greater = pb.Compare.EQUAL, pb.Compare.LESS, pb.Compare.GREATER
    kind = compare.kind
    if kind is CompareKind.ABSENT:
        return pb.Compare(key=key, result=equal, target=pb.Compare.VERSION, version=0)
    if kind is CompareKind.EXISTS:
        return pb.Compare(key=key, result=greater, target=pb.Compare.VERSION, version=0)
    if kind is CompareKind.VALUE:
        return pb.Compare(key=key, result=equal, target=pb.Compare.VALUE, value=compare.expected)
    revision = compare.revision
    if kind is CompareKind.MOD_REVISION:
        return pb.Compare(key=key, result=equal, target=pb.Compare.MOD, mod_revision=revision)
    if kind is CompareKind.PREFIX_CREATED_BEFORE:
        end = prefix_end(key)
        return pb.Compare(key=key, range_end=end, result=less, target=pb.Compare.CREATE, create_revision=revision)
    end = prefix_end(key) if kind is CompareKind.PREFIX_MOD_BEFORE else b""
    return pb.Compare(key=key, range_end=end, result=less, target=pb.Compare.MOD, mod_revision=revision)


def op_message(op: Op) -> pb.RequestOp:
    key = key_bytes(op.key)
    if op.kind is OpKind.PUT:
        return pb.RequestOp(request_put=pb.PutRequest(key=key, value=op.value, lease=op.lease))
    if op.kind is OpKind.DELETE:
        return pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=key))
    if op.kind is OpKind.DELETE_PREFIX:
        return pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=key, range_end=prefix_end(key)))
    if op.kind is OpKind.GET:
        return pb.RequestOp(request_range=pb.RangeRequest(key=key))
    return pb.RequestOp(request_range=pb.RangeRequest(key=key, range_end=prefix_end(key)))


def op_result(response: pb.ResponseOp) -> OpResult:
    which = response.WhichOneof("response")
    if which == "response_range":
        return OpResult(kvs=tuple(key_value(kv) for kv in response.response_range.kvs))
    if which == "response_delete_range":
        return OpResult(deleted=response.response_delete_range.deleted)
    return OpResult()


def check_size(request: Message, what: str) -> None:
    """Raises `InvalidArgument` when etcd would refuse the request for its size."""
    size = request.ByteSize()
    if size > MAX_REQUEST_BYTES:
        raise InvalidArgument(
            f"{what}: {size} bytes are more than etcd takes in one request "
            f"({MAX_REQUEST_BYTES}): make the value smaller"
        )
