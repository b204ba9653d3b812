"""Compiles .proto files to a FileDescriptorSet and writes it as C++ source, for server reflection.

    python embed_descriptors.py --proto-dir proto --namespace mesh::rpc --function OpenInferenceDescriptors \\
        --out generated.cc open_inference.proto
"""

import argparse
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path


def compiler() -> list[str]:
    """The command of a protocol buffer compiler: this interpreter's grpcio-tools, or the system's protoc."""
    if importlib.util.find_spec("grpc_tools") is not None:
        return [sys.executable, "-m", "grpc_tools.protoc"]
    found = shutil.which("protoc")
    if found is None:
        raise SystemExit("no protocol buffer compiler: pip install grpcio-tools, or apt-get install protobuf-compiler")
    return [found]


def descriptor_set(proto_dir: Path, protos: list[str]) -> bytes:
    """The serialized FileDescriptorSet of `protos` and all that they import."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "set.bin"
        subprocess.run(
            [*compiler(), f"-I{proto_dir}", "--include_imports", f"--descriptor_set_out={out}", *protos], check=True
        )
        return out.read_bytes()


def source(namespace: str, function: str, data: bytes) -> str:
    """A C++ file that defines `std::string_view namespace::function()`."""
    rows = [", ".join(str(byte) for byte in data[at : at + 32]) for at in range(0, len(data), 32)]
    body = ",\n    ".join(rows)
    return (
        "// Generated; do not edit.\n#include <string_view>\n\n"
        f"namespace {namespace} {{\n\nstd::string_view {function}();\n\n"
        f"std::string_view {function}() {{\n  static constexpr unsigned char kBytes[] = {{\n    {body}}};\n"
        f"  return {{reinterpret_cast<const char*>(kBytes), sizeof kBytes}};\n}}\n\n}}  // namespace {namespace}\n"
    )


def main() -> None:
    """Reads the command line and writes the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--proto-dir", type=Path, required=True)
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--function", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("protos", nargs="+")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(
        source(options.namespace, options.function, descriptor_set(options.proto_dir, options.protos))
    )


if __name__ == "__main__":
    main()
