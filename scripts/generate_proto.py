"""Generates the Python stubs of proto/*.proto into serving/_proto.

The protos are compiled under the virtual folder `serving/_proto`, so that their descriptors cannot collide with
anybody else's and the generated modules import each other by their real package.
"""

from __future__ import annotations

import sys
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ("etcd", "records", "keeper", "routes", "broker", "batch")


def generate(root: Path) -> int:
    """Writes the stubs below `root`; the exit code of protoc."""
    package = root / "serving" / "_proto"
    package.mkdir(parents=True, exist_ok=True)
    well_known = Path(protoc.__file__).parent / "_proto"
    arguments = ["protoc", f"-Iserving/_proto={ROOT / 'proto'}", f"-I{well_known}"]
    arguments += [f"--python_out={root}", f"--pyi_out={root}", f"--grpc_python_out={root}"]
    return int(protoc.main(arguments + [f"serving/_proto/{name}.proto" for name in PROTOS]))


if __name__ == "__main__":
    sys.exit(generate(ROOT))
