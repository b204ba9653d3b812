"""Traffic for the soak: valid requests whose answers are checked, and everything that hostile or broken clients do.

Each function does one thing with one server, and raises `AssertionError` where an answer is wrong. A server that is
full may say so instead, which is an error with `FULL` in it. What hostile peers are told is not looked at: only that
the server lives and serves the others.
"""

from __future__ import annotations

import json
import os
import random
import socket
import struct
from collections.abc import Callable

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.utils.shared_memory as client_memory
from tritonclient.grpc import service_pb2 as pb

from tests.integration.ingress.kserve_cases import infer_request
from tests.integration.ingress.kserve_servers import Ingress
from tests.integration.ingress.rest_cases import RestRequest, binary, post, tensor
from tests.integration.ingress.test_rest_contract import ask
from tests.integration.rpc.raw_http2 import (
    DATA,
    HEADERS,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    frame,
    literal,
    message,
    request_headers,
)

FULL = "this replica is full"
Act = Callable[[Ingress, random.Random], None]
INFER = "/inference.GRPCInferenceService/ModelInfer"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
SIZES = (1, 16, 1000, 100_000)
MIB = 1 << 20
_PEER_S = 10.0


def _values(chance: random.Random, most: int = SIZES[-1]) -> np.ndarray:
    size = chance.choice([size for size in SIZES if size <= most])
    return np.random.default_rng(chance.randrange(2**32)).random(size, np.float32)


def _request(values: np.ndarray, request_id: str = "") -> pb.ModelInferRequest:
    return infer_request("id_fp32", [("INPUT0", "FP32", values.shape)], [values.tobytes()], request_id=request_id)


# ---- valid


def unary(server: Ingress, chance: random.Random) -> None:
    values, name = _values(chance), str(chance.random())
    compression = chance.choice([None, grpc.Compression.Gzip])
    answer = server.stub.ModelInfer(_request(values, name), timeout=60, compression=compression)
    assert answer.id == name
    assert answer.raw_output_contents == [values.tobytes()]


def stream(server: Ingress, chance: random.Random) -> None:
    sent = [_values(chance, 1000) for _ in range(chance.randrange(1, 20))]
    answers = list(server.stub.ModelStreamInfer(iter([_request(values) for values in sent]), timeout=60))
    errors = [answer.error_message for answer in answers]
    assert errors == [""] * len(sent), errors
    assert [answer.infer_response.raw_output_contents[0] for answer in answers] == [v.tobytes() for v in sent]


def many_answers(server: Ingress, chance: random.Random) -> None:
    """Of a decoupled model in Python: as many answers as elements."""
    values = np.arange(chance.randrange(1, 30), dtype=np.float32)
    request = infer_request("repeat", [("INPUT0", "FP32", values.shape)], [values.tobytes()])
    answers = list(server.stub.ModelStreamInfer(iter([request]), timeout=60))
    assert not any(answer.error_message for answer in answers), answers
    found = [struct.unpack("<f", answer.infer_response.raw_output_contents[0])[0] for answer in answers]
    assert found == values.tolist()


def rest_json(server: Ingress, chance: random.Random) -> None:
    values = [chance.randrange(-1000, 1000) / 8 for _ in range(chance.choice((1, 10, 3000)))]
    body = {"inputs": [tensor(shape=[len(values)], data=values)]}
    answer = ask(server.address, post("/v2/models/id_fp32/infer", body))
    assert answer.status == 200, answer.body[:300]
    assert json.loads(answer.body)["outputs"][0]["data"] == values


def rest_binary(server: Ingress, chance: random.Random) -> None:
    values = _values(chance)
    size = {"binary_data_size": values.nbytes}
    head = {
        "inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": values.shape, "parameters": size}],
        "parameters": {"binary_data_output": True},
    }
    answer = ask(server.address, binary(head, values.tobytes()))
    assert answer.status == 200, answer.body[:300]
    assert answer.body.endswith(values.tobytes())


def shared_memory(server: Ingress, chance: random.Random) -> None:
    values = _values(chance)
    name = f"soak_{os.getpid()}_{chance.randrange(2**60)}"
    region = client_memory.create_shared_memory_region(name, f"/{name}", 2 * values.nbytes)
    try:
        client_memory.set_shared_memory_region(region, [values])
        with triton.InferenceServerClient(server.address) as client:
            client.register_system_shared_memory(name, f"/{name}", 2 * values.nbytes)
            source = triton.InferInput("INPUT0", values.shape, "FP32")
            source.set_shared_memory(name, values.nbytes)
            target = triton.InferRequestedOutput("OUTPUT0")
            target.set_shared_memory(name, values.nbytes, values.nbytes)
            try:
                client.infer("id_fp32", [source], outputs=[target], client_timeout=60)
                found = client_memory.get_contents_as_numpy(region, np.float32, values.shape, values.nbytes)
                assert np.array_equal(found, values)
            finally:  # else each refusal would leave a mapping behind, which the soak takes for a leak
                client.unregister_system_shared_memory(name)
    finally:
        client_memory.destroy_shared_memory_region(region)


def wrong_request(server: Ingress, chance: random.Random) -> None:
    """A valid message that asks for what is not there: a precise error."""
    bad = _request(_values(chance, 16))
    bad.inputs[0].shape[0] += 1
    with pytest.raises(grpc.RpcError) as refused:
        server.stub.ModelInfer(bad, timeout=60)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT, refused.value


# ---- hostile


def _peer(server: Ingress, *, receive_buffer: int | None = None) -> socket.socket:
    host, port = server.address.rsplit(":", 1)
    peer = socket.socket()
    if receive_buffer is not None:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    peer.settimeout(_PEER_S)
    peer.connect((host, int(port)))
    return peer


def _say(peer: socket.socket, said: bytes) -> None:
    """The server may have closed the connection, or take no more: both are its right."""
    try:
        peer.sendall(said)
    except (ConnectionError, TimeoutError):
        return


def _end(peer: socket.socket, chance: random.Random) -> None:
    """Closes, or resets."""
    if chance.random() < 0.5:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def _grpc_bytes(path: str, body: bytes, *, end: int = 1) -> bytes:
    opening = PREFACE + frame(SETTINGS, 0, 0)
    return opening + frame(HEADERS, 4, 1, literal(request_headers(path))) + frame(DATA, end, 1, body)


def _rest_bytes(request: RestRequest) -> bytes:
    body = request.body or b""
    head = [f"{request.method} {request.path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}"]
    return "\r\n".join([*head, *(f"{k}: {v}" for k, v in request.headers.items()), "", ""]).encode() + body


def _whole(chance: random.Random) -> bytes:
    values = _values(chance, 1000)
    if chance.random() < 0.5:
        return _grpc_bytes(chance.choice((INFER, STREAM)), message(_request(values).SerializeToString()))
    return _rest_bytes(post("/v2/models/id_fp32/infer", {"inputs": [tensor()]}))


def garbage(server: Ingress, chance: random.Random) -> None:
    peer = _peer(server)
    _say(peer, chance.choice((b"", PREFACE, b"POST / HTTP/1.1\r\n")) + chance.randbytes(chance.randrange(1, 20_000)))
    _end(peer, chance)


def damaged(server: Ingress, chance: random.Random) -> None:
    bad = bytearray(_whole(chance))
    for _ in range(chance.randrange(1, 6)):
        bad[chance.randrange(len(bad))] = chance.randrange(256)
    peer = _peer(server)
    _say(peer, bytes(bad))
    _end(peer, chance)


def half(server: Ingress, chance: random.Random) -> None:
    whole = _whole(chance)
    peer = _peer(server)
    _say(peer, whole[: chance.randrange(1, len(whole))])
    _end(peer, chance)


def huge_headers(server: Ingress, chance: random.Random) -> None:
    peer = _peer(server)
    if chance.random() < 0.5:
        _say(peer, b"GET /v2 HTTP/1.1\r\n" + b"X-Long: y\r\n" * 5000 + b"X: " + b"z" * MIB)
    else:
        block = literal([*request_headers(INFER), *[("x-long", "y" * 15_000)] * 4])
        _say(peer, PREFACE + frame(SETTINGS, 0, 0))
        _say(peer, frame(HEADERS, 0, 1, block[:16_000]) + frame(9, 0, 1, block[16_000:32_000]))
        _say(peer, frame(9, 4, 1, block[32_000:48_000]))
    _end(peer, chance)


def lying_lengths(server: Ingress, chance: random.Random) -> None:
    peer = _peer(server)
    if chance.random() < 0.5:
        _say(peer, _grpc_bytes(INFER, message(b"x" * 100, declared=chance.randrange(2**32)), end=0))
    else:
        _say(peer, b"POST /v2/models/id_fp32/infer HTTP/1.1\r\nContent-Length: 900000000\r\n\r\n{")
    _end(peer, chance)


def slow_reader(server: Ingress, chance: random.Random) -> None:
    """Asks for megabytes and reads nothing of them."""
    peer = _peer(server, receive_buffer=4096)
    size = chance.randrange(10_000, MIB // 4)
    wanted = infer_request("id_fp32", [("INPUT0", "FP32", (size,))], [bytes(4 * size)])
    body = message(wanted.SerializeToString())
    peer.settimeout(1)
    _say(peer, PREFACE + frame(SETTINGS, 0, 0))
    for number in range(4):
        stream_id = 2 * number + 1
        _say(peer, frame(HEADERS, 4, stream_id, literal(request_headers(INFER))))
        for start in range(0, len(body), 16_384):
            last = start + 16_384 >= len(body)
            _say(peer, frame(DATA, int(last), stream_id, body[start : start + 16_384]))
    _end(peer, chance)


def resets(server: Ingress, chance: random.Random) -> None:
    """Calls that are taken back as soon as they are made."""
    peer = _peer(server)
    body = message(_request(_values(chance, 16)).SerializeToString())
    _say(peer, PREFACE + frame(SETTINGS, 0, 0))
    for number in range(chance.randrange(1, 60)):
        stream_id = 2 * number + 1
        call = frame(HEADERS, 4, stream_id, literal(request_headers(INFER))) + frame(DATA, 1, stream_id, body)
        _say(peer, call + frame(RST_STREAM, 0, stream_id, struct.pack(">I", 8)))
    _end(peer, chance)


def cancelled(server: Ingress, chance: random.Random) -> None:
    if chance.random() < 0.5:
        server.stub.ModelInfer.future(infer_request("slow"), timeout=60).cancel()
        return
    call = server.stub.ModelStreamInfer(iter([infer_request("slow"), infer_request("slow")]), timeout=60)
    call.cancel()


def too_late(server: Ingress, chance: random.Random) -> None:
    """A deadline that the model cannot keep."""
    with pytest.raises(grpc.RpcError) as refused:
        server.stub.ModelInfer(infer_request("slow"), timeout=chance.uniform(0.001, 0.1))
    assert refused.value.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED), refused.value


VALID: tuple[Act, ...] = (unary, unary, stream, many_answers, rest_json, rest_binary, shared_memory, wrong_request)
HOSTILE: tuple[Act, ...] = (
    garbage,
    damaged,
    half,
    huge_headers,
    lying_lengths,
    slow_reader,
    resets,
    cancelled,
    too_late,
)
