"""System shared memory: as `tritonserver`, but for offsets, which may be any number here."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from multiprocessing import shared_memory

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.utils.shared_memory as client_memory
from google.protobuf.message import Message
from tritonclient.grpc import service_pb2 as pb

from tests.integration.ingress.kserve_cases import elements, infer_request
from tests.integration.ingress.kserve_servers import Ingress, KServeProcess, Oracle

Parameters = dict[str, int | str]
SIZE = 8192
STRINGS = elements(b"ab", b"c")


def part(region: int | str, size: int | str | None, offset: int | None = None) -> Parameters:
    found: Parameters = {"shared_memory_region": region}
    if size is not None:
        found["shared_memory_byte_size"] = size
    if offset is not None:
        found["shared_memory_offset"] = offset
    return found


def request(
    source: Parameters | None = None,
    target: Parameters | None = None,
    *,
    model: str = "id_fp32",
    datatype: str = "FP32",
    shape: tuple[int, ...] = (4,),
    raw: tuple[bytes, ...] = (),
) -> pb.ModelInferRequest:
    made = infer_request(model, [("INPUT0", datatype, shape)], raw, request_id="q")
    tensors = [(made.inputs[0], source)]
    if target is not None:
        tensors.append((made.outputs.add(name="OUTPUT0"), target))
    for tensor, parameters in tensors:
        for key, value in (parameters or {}).items():
            setattr(tensor.parameters[key], "string_param" if isinstance(value, str) else "int64_param", value)
    return made


def with_contents() -> pb.ModelInferRequest:
    made = request(part("r", 16))
    made.inputs[0].contents.fp32_contents.extend([1, 2, 3, 4])
    return made


RAW = (struct.pack("<4f", 1, 5, 3, 2),)
REQUESTS = {
    "input": request(part("r", 16)),
    "input at an offset": request(part("r", 16, 4)),
    "input of the wrong size": request(part("r", 12)),
    "input without a size": request(part("r", None)),
    "input beyond the region": request(part("r", 16, SIZE - 6)),
    "input of an unknown region": request(part("nope", 16)),
    "input beside raw bytes": request(part("r", 16), raw=RAW),
    "input beside contents": with_contents(),
    "negative size": request(part("r", -1)),
    "negative offset": request(part("r", 16, -4)),
    "region is a number": request(part(3, 16)),
    "size is a text": request(part("r", "16")),
    "output": request(part("r", 16), part("r", 16, 1024)),
    "output of raw bytes": request(None, part("r", 16, 2048), raw=RAW),
    "output too small": request(part("r", 16), part("r", 12, 1024)),
    "output larger than needed": request(part("r", 16), part("r", 100, 1024)),
    "output beyond the region": request(part("r", 16), part("r", 16, SIZE - 6)),
    "output in an unknown region": request(part("r", 16), part("nope", 16)),
    "output without a size": request(part("r", 16), part("r", None)),
    "classes into shared memory": request(
        None, {"classification": 2, **part("r", 64, 2048)}, model="labels", shape=(1, 4), raw=RAW
    ),
    "strings": request(part("r", len(STRINGS), 512), model="id_string", datatype="BYTES", shape=(2,)),
    "broken strings": request(part("r", len(STRINGS), 513), model="id_string", datatype="BYTES", shape=(2,)),
}


def outcome(server: KServeProcess, method: str, message: Message) -> tuple[str, object]:
    try:
        return "OK", getattr(server.stub, method)(message, timeout=60)
    except grpc.RpcError as error:
        return error.code().name, error.details()


@pytest.fixture
def segment() -> Iterator[shared_memory.SharedMemory]:
    held = shared_memory.SharedMemory(create=True, size=SIZE)
    assert held.buf is not None
    held.buf[:16] = struct.pack("<4f", 1, 2, 3, 4)
    held.buf[512 : 512 + len(STRINGS)] = STRINGS
    yield held
    held.close()
    held.unlink()


@pytest.fixture
def registered(
    ingress: Ingress, oracle: Oracle, segment: shared_memory.SharedMemory
) -> Iterator[shared_memory.SharedMemory]:
    """The segment as region `r` of both servers."""
    region = pb.SystemSharedMemoryRegisterRequest(name="r", key=f"/{segment.name}", byte_size=SIZE)
    for server in (ingress, oracle):
        server.stub.SystemSharedMemoryRegister(region, timeout=60)
    yield segment
    for server in (ingress, oracle):
        server.stub.SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest(), timeout=60)


@pytest.mark.parametrize("name", REQUESTS)
def test_requests(name: str, registered: shared_memory.SharedMemory, ingress: Ingress, oracle: Oracle) -> None:
    assert registered.buf is not None
    written = []
    results = []
    for server in (ingress, oracle):
        registered.buf[1024:4096] = bytes(3072)
        results.append(outcome(server, "ModelInfer", REQUESTS[name]))
        written.append(bytes(registered.buf[1024:4096]))
    assert results[0][0] == results[1][0]
    if name != "broken strings":  # where ours says more
        assert results[0][1] == results[1][1]
    assert written[0] == written[1]


def test_registering(segment: shared_memory.SharedMemory, ingress: Ingress, oracle: Oracle) -> None:
    register, status = pb.SystemSharedMemoryRegisterRequest, pb.SystemSharedMemoryStatusRequest
    unregister = pb.SystemSharedMemoryUnregisterRequest
    key = f"/{segment.name}"
    steps: list[tuple[str, Message]] = [
        ("SystemSharedMemoryStatus", status()),
        ("SystemSharedMemoryStatus", status(name="x")),
        ("SystemSharedMemoryRegister", register(name="r", key=key, byte_size=SIZE)),
        ("SystemSharedMemoryRegister", register(name="r", key=key, byte_size=SIZE)),
        ("SystemSharedMemoryRegister", register(name="missing", key="/mesh_no_such_segment", byte_size=4)),
        ("SystemSharedMemoryRegister", register(name="long", key=key, byte_size=SIZE + 1)),
        ("SystemSharedMemoryRegister", register(name="behind", key=key, offset=SIZE, byte_size=4)),
        ("SystemSharedMemoryRegister", register(name="far", key=key, offset=2**63, byte_size=4)),
        ("SystemSharedMemoryRegister", register(name="none", key=key)),
        ("SystemSharedMemoryStatus", status(name="r")),
        ("SystemSharedMemoryStatus", status()),
        ("SystemSharedMemoryUnregister", unregister(name="r")),
        ("SystemSharedMemoryUnregister", unregister(name="r")),
        ("SystemSharedMemoryUnregister", unregister()),
        ("SystemSharedMemoryStatus", status()),
        ("CudaSharedMemoryStatus", pb.CudaSharedMemoryStatusRequest()),
        ("CudaSharedMemoryStatus", pb.CudaSharedMemoryStatusRequest(name="x")),
        ("CudaSharedMemoryUnregister", pb.CudaSharedMemoryUnregisterRequest(name="x")),
        ("CudaSharedMemoryUnregister", pb.CudaSharedMemoryUnregisterRequest()),
    ]
    for method, message in steps:
        assert outcome(ingress, method, message) == outcome(oracle, method, message), (method, message)


def test_cuda_regions_are_refused(ingress: Ingress) -> None:
    wanted = pb.CudaSharedMemoryRegisterRequest(name="x", raw_handle=b"12", byte_size=4)
    code, words = outcome(ingress, "CudaSharedMemoryRegister", wanted)
    assert code == "INVALID_ARGUMENT"
    assert "no GPU support; use system shared memory" in str(words)


def test_tritonclient_moves_ten_megabytes_without_a_socket(ingress: Ingress) -> None:
    """As in Triton's own examples: tensors in and out through the client's shared memory."""
    tensor = np.random.default_rng(3).standard_normal(2_500_000, dtype=np.float32)
    handle = client_memory.create_shared_memory_region("data", f"/mesh_test_{os.getpid()}", 2 * tensor.nbytes)
    client = triton.InferenceServerClient(ingress.address)
    try:
        client_memory.set_shared_memory_region(handle, [tensor])
        client.register_system_shared_memory("data", f"/mesh_test_{os.getpid()}", 2 * tensor.nbytes)
        source = triton.InferInput("INPUT0", [tensor.size], "FP32")
        source.set_shared_memory("data", tensor.nbytes)
        target = triton.InferRequestedOutput("OUTPUT0")
        target.set_shared_memory("data", tensor.nbytes, offset=tensor.nbytes)
        result = client.infer("id_fp32", [source], outputs=[target])
        assert result.get_response().ByteSize() < 200
        got = client_memory.get_contents_as_numpy(handle, np.float32, [tensor.size], offset=tensor.nbytes)
        assert np.array_equal(got, tensor)
    finally:
        client.unregister_system_shared_memory("data")
        client_memory.destroy_shared_memory_region(handle)
        client.close()


def test_a_stream_writes_into_shared_memory(registered: shared_memory.SharedMemory, ingress: Ingress) -> None:
    assert registered.buf is not None
    wanted = request(part("r", 16), part("r", 16, 1024))
    (answer,) = ingress.stub.ModelStreamInfer(iter([wanted]), timeout=60)
    assert list(answer.infer_response.raw_output_contents) == [b""]
    assert bytes(registered.buf[1024:1040]) == struct.pack("<4f", 1, 2, 3, 4)


def test_a_segment_that_was_cut_fails_the_request_only(ingress: Ingress) -> None:
    key = f"/mesh_cut_{os.getpid()}"
    path = f"/dev/shm{key}"
    with open(path, "wb") as file:
        file.write(bytes(SIZE))
    try:
        region = pb.SystemSharedMemoryRegisterRequest(name="cut", key=key, byte_size=SIZE)
        ingress.stub.SystemSharedMemoryRegister(region, timeout=60)
        os.truncate(path, 0)
        code, words = outcome(ingress, "ModelInfer", request(part("cut", 16)))
        assert (code, "shorter than it was" in str(words)) == ("FAILED_PRECONDITION", True)
        assert ingress.alive()
    finally:
        ingress.stub.SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest(name="cut"), timeout=60)
        os.unlink(path)
