"""The actor's library shares a process with libray_api, which carries its own gRPC, protobuf, abseil and BoringSSL."""

from __future__ import annotations

import subprocess
from pathlib import Path

import ray

from tests.integration.replica.test_replica_actor import actor_library


def _dynamic_symbols(library: Path, which: str) -> set[str]:
    """Names without their versions."""
    listed = subprocess.run(["nm", "-D", which, str(library)], capture_output=True, text=True, check=True, timeout=120)
    return {line.split()[-1].split("@")[0] for line in listed.stdout.splitlines() if line.strip()}


def _ray_library() -> Path:
    return Path(ray.__file__).parent / "cpp" / "lib" / "libray_api.so"


def test_nothing_of_ours_is_visible_to_others() -> None:
    exported = _dynamic_symbols(actor_library(), "--defined-only")
    assert any("FunctionManager8InstanceEvE8instance" in name for name in exported), "Ray could not find the factory"
    assert [name for name in exported if "3ray" not in name] == []
    assert [name for name in exported if "mesh" in name] == []


def test_nothing_that_we_call_can_bind_to_rays_copies() -> None:
    wanted = _dynamic_symbols(actor_library(), "--undefined-only")
    assert {"SSL_new", "nghttp2_submit_request"} <= wanted
    clashes = wanted & _dynamic_symbols(_ray_library(), "--defined-only")
    assert {name for name in clashes if "3ray" not in name} == set()
